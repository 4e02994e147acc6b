"""What must not be in the tree, and what the SROS 2 policy allows."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

REPO = Path(__file__).resolve().parents[2]
WORKSPACE = REPO / "ros2_ws/src"
SOURCES = sorted(
    path
    for folder in ("policies", "sim2real", "calibration", "ros2_ws/src", "launch")
    for path in (REPO / folder).rglob("*.py")
    if "build" not in path.parts
)
POLICY = WORKSPACE / "realign_bringup/realign_bringup/security_policy.xml"
# Modules that run code from data, or that unpack to wherever the data says.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"tarfile", "zipfile", "code", "codeop", "telnetlib", "ftplib", "lxml"}
# `from time import time` and the like: the names, whatever they are called as.
FROM = {
    ("time", "time"),
    ("time", "time_ns"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("torch", "load"),
    ("os", "system"),
    ("os", "popen"),
    ("os", "tempnam"),
    ("tempfile", "mktemp"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("asyncio", "create_subprocess_shell"),
    ("urllib.request", "urlopen"),
    ("urllib.request", "urlretrieve"),
    ("shutil", "unpack_archive"),
    ("zipfile", "ZipFile"),
}
# Readers of XML: entities that unfold to gigabytes, files that are read by name.
XML = ("parse", "iterparse", "fromstring", "fromstringlist", "XML", "XMLParser", "parseString")
CALLS = {f"{module}.{name}" for module, name in FROM} - {"torch.load"}
BUILT_IN = {"eval", "exec", "__import__"}


# Robot descriptions that are part of this project, or of what it installs.
OWN_XML = {"description.py": "ElementTree.fromstring", "robot_model.py": "ElementTree.parse"}


def offences(tree: ast.AST) -> list[str]:
    """What of the above a module does."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            harmless = {a.name for a in node.names} <= {"BadZipFile"}  # what numpy raises
            found += [module] if module.partition(".")[0] in MODULES and not harmless else []
            found += [
                f"{module}.{a.name}" for a in node.names if "xml." in module + "." and a.name in XML
            ]
            found += [f"{module}.{a.name}" for a in node.names if (module, a.name) in FROM]
        elif isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _of_call(node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
    bad = called in CALLS or (isinstance(node.func, ast.Name) and called in BUILT_IN)
    bad |= called == "torch.load" and keywords.get("weights_only") != "True"
    bad |= keywords.get("allow_pickle", "False") != "False"
    bad |= keywords.get("shell", "False") != "False"
    bad |= called.endswith((".extractall", ".unpack_archive", ".makefile"))
    owner, _, name = called.rpartition(".")
    bad |= name in XML and owner.split(".")[-1] in ("ElementTree", "ET", "minidom", "sax", "etree")
    bad |= any(keywords.get(limit) == "None" for limit in ("max_size", "max_queue"))
    return [called] if bad else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_no_code_from_data_no_wall_clock_no_shell(path):
    found = offences(ast.parse(path.read_text()))
    assert set(found) <= {OWN_XML.get(path.name)}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads as x",
        "from time import time as now",
        "import time\ntime.time()",
        "import torch\ntorch.load('x')",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "eval('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import tarfile\ntarfile.open('x').extractall()",
        "from zipfile import ZipFile",
        "import os\nos.system('x')",
        "exec('1')",
        "import tempfile\ntempfile.mktemp()",
        "from tempfile import mktemp",
        "import subprocess\nsubprocess.getoutput('x')",
        "import asyncio\nasyncio.create_subprocess_shell('x')",
        "from xml.etree import ElementTree\nElementTree.parse('x')",
        "from xml.etree.ElementTree import fromstring",
        "import xml.etree.ElementTree as ET\nET.fromstring('x')",
        "from xml.dom import minidom\nminidom.parseString('x')",
        "import lxml.etree",
        "from websockets.sync.client import connect\nconnect('x', max_size=None)",
        "connection.makefile()",
        "import urllib.request\nurllib.request.urlopen('x')",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert offences(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(p, weights_only=True)",
        "re.compile('x')",
        "a.eval()",
        "from zipfile import BadZipFile",
        "from xml.etree import ElementTree\nElementTree.SubElement(a, 'x')",
        "parser.parse(text)",
        "connect('x', max_size=1000)",
    ],
)
def test_the_search_leaves_alone_what_is_harmless(text):
    assert offences(ast.parse(text)) == []


# ---- SROS 2 ------------------------------------------------------------------------------------


def profiles() -> dict[str, ElementTree.Element]:
    root = ElementTree.parse(POLICY).getroot()
    found = {}
    for enclave in root.iter("enclave"):
        (profile,) = enclave.iter("profile")
        assert enclave.get("path") == f"/realign/{profile.get('node')}"
        found[profile.get("node")] = profile
    return found


def allowed(profile: ElementTree.Element, kind: str, what: str) -> set[str]:
    return {
        item.text
        for block in profile.findall(f"{kind}s")
        if block.get(what) == "ALLOW"
        for item in block.findall(kind)
    }


# Node -> package whose code it is; what all drivers share is in realign_driver.
PACKAGES = {
    "guard": "realign_policy",
    "policy": "realign_policy",
    "recorder": "realign_recorder",
    "player": "realign_recorder",
    "mujoco_driver": "realign_mujoco_driver",
    "unitree_driver": "realign_unitree_driver",
    "serial_driver": "realign_serial_driver",
    "gripper_driver": "realign_serial_driver",
    "estop_button": "realign_serial_driver",
    "franka_driver": "realign_franka_driver",
    "franka_trajectory": "realign_franka_driver",
}
# Rclpy's own services and topics; `operator` is whoever calls the services, no node of ours.
ROS_OWN = re.compile(
    r"rosout|parameter_events|clock|~/transition_event|.*_parameters?(_types|_atomically)?"
    r"|~/get_type_description|~/(change|get)_state|~/get_(available_states|.*transitions?(_graph)?)"
)
MAKERS = ("create_publisher", "create_subscription", "create_service", "create_client")


def modules_of(package):
    folders = [WORKSPACE / package, WORKSPACE / "realign_driver"]
    return [
        path for folder in folders for path in folder.rglob("*.py") if "build" not in path.parts
    ]


def granted(profile):
    kinds = (("topic", "publish"), ("topic", "subscribe"), ("service", "reply"))
    names = set().union(*(allowed(profile, *kind) for kind in kinds))
    return names | allowed(profile, "service", "request")


def test_every_node_has_an_enclave_and_a_test_here():
    nodes = {
        match
        for path in WORKSPACE.rglob("*.py")
        for match in re.findall(r'super\(\).__init__\("(\w+)"', path.read_text())
    } - {"fault_relay", "bare_echo", "latency_client"}  # of tests and benchmarks
    assert set(profiles()) == nodes | {"operator"}
    assert set(PACKAGES) == nodes


def test_only_the_guard_commands_and_only_policies_plan():
    for node, profile in profiles().items():
        publishes = allowed(profile, "topic", "publish")
        assert ("joint_command" in publishes) == (node == "guard")
        assert ("action_chunk" in publishes) == (node in ("policy", "player"))
        assert ("operator_stop" in publishes) == (node in ("operator", "estop_button"))
        wild = {name for name in publishes if "*" in name}
        assert wild <= {"*/image_raw", "*/image_raw/compressed"}  # cameras are named by users
        arms = {"guard/arm", "guard/reset"} & allowed(profile, "service", "request")
        assert not arms or node in ("operator", "unitree_driver")  # whose remote has a key for it


@pytest.mark.parametrize("node", PACKAGES)
def test_what_is_allowed_is_in_the_source_of_the_node(node):
    """Nothing is allowed that no code does; ROS's own topics and services aside."""
    text = "\n".join(path.read_text() for path in modules_of(PACKAGES[node]))
    for name in granted(profiles()[node]):
        if ROS_OWN.fullmatch(name) or name.startswith("*"):
            continue
        words = name.removeprefix("~/").split("/")
        for word in words[:1] if name.startswith("~") else words[-1:]:
            assert re.search(rf'["/]{re.escape(word)}"', text), f"{node}: {name}"


def test_what_the_source_opens_is_allowed():
    """Every topic and service that a node's code names."""
    may = set().union(*(granted(profile) for profile in profiles().values()))
    for path in {path for package in PACKAGES.values() for path in modules_of(package)}:
        if path.stem == "latency_bench":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in MAKERS
            if named and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                assert node.args[1].value.removeprefix("/") in may, (
                    f"{path.name}: {node.args[1].value}"
                )


ARGUMENTS = ("package", "executable", "ros_arguments")
# Nodes that `realign run` does not start, and whose name is not that of their module.
ENCLAVES = {
    "realign_franka_driver.trajectory_node": "/realign/franka_trajectory",
    "realign_serial_driver.estop_node": "/realign/estop_button",
}


def test_launch_files_and_realign_run_start_nodes_in_their_enclaves():
    from sim2real.graph import enclave_of

    known = {f"/realign/{node}" for node in profiles()}
    files = [
        *(REPO / "launch").glob("*.py"),
        WORKSPACE / "realign_bringup/realign_bringup/parts.py",
    ]
    started = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Node"):
                words = {
                    k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg in ARGUMENTS
                }
                module = f"{words['package']}.{words['executable']}"
                assert words["ros_arguments"] == [
                    "--enclave",
                    ENCLAVES.get(module, enclave_of(module)),
                ]
                started.add(words["ros_arguments"][1])
    assert started <= known
    assert len(started) == 10
    for module in ("realign_policy.guard_node", "realign_serial_driver.driver_node"):
        assert enclave_of(module) in known
