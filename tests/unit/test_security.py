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
}
CALLS = {f"{module}.{name}" for module, name in FROM} - {"torch.load"}
BUILT_IN = {"eval", "exec", "__import__"}


def offences(tree: ast.AST) -> list[str]:
    """What of the above a module does."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.partition(".")[0] in MODULES else []
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
    bad |= called.endswith((".extractall", ".unpack_archive"))
    return [called] if bad else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_no_code_from_data_no_wall_clock_no_shell(path):
    assert offences(ast.parse(path.read_text())) == []


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
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert offences(ast.parse(text))


@pytest.mark.parametrize(
    "text", ["torch.load(p, weights_only=True)", "re.compile('x')", "a.eval()"]
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


def test_only_the_guard_commands_and_only_the_policy_plans():
    for node, profile in profiles().items():
        publishes = allowed(profile, "topic", "publish")
        assert ("joint_command" in publishes) == (node == "guard")
        assert ("action_chunk" in publishes) == (node == "policy")
        assert ("operator_stop" in publishes) == (node == "operator")
        assert not [name for name in publishes if "*" in name]


def test_what_is_allowed_is_in_the_source_of_the_node():
    """Nothing is allowed that no code does; ROS's own topics and services aside."""
    own = {"rosout", "parameter_events", "clock", "~/transition_event"}
    packages = {
        "guard": "realign_policy",
        "policy": "realign_policy",
        "recorder": "realign_recorder",
        "mujoco_driver": "realign_mujoco_driver",
        "unitree_driver": "realign_unitree_driver",
    }
    for node, package in packages.items():
        text = "\n".join(path.read_text() for path in (WORKSPACE / package).rglob("*.py"))
        text += (REPO / "policies/runtime/handshake.py").read_text()
        profile = profiles()[node]
        names = allowed(profile, "topic", "publish") | allowed(profile, "topic", "subscribe")
        for name in names - own:
            assert re.search(rf'"/?{re.escape(name)}"', text), f"{node}: {name}"
