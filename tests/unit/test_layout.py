"""The repository fits together: packages, launch files, constraints, house rules, documents."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import shlex
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools

from policies.checkpoint import inspect
from policies.errors import InputError
from policies.robots import PANDA
from sim2real import cli, run
from sim2real.run_config import RunConfig

REPO = Path(__file__).resolve().parents[2]
WORKSPACE = REPO / "ros2_ws" / "src"
ROS_PACKAGES = sorted(path.parent.name for path in WORKSPACE.glob("*/package.xml"))
LAUNCH_FILES = sorted(path.name for path in (REPO / "launch").glob("*.launch.py"))
DOCUMENTS = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])
SOURCES = sorted(
    path
    for folder in ("policies", "sim2real", "calibration", "ros2_ws/src", "launch")
    for path in (REPO / folder).rglob("*.py")
    if "build" not in path.parts
)


@pytest.fixture
def read_setup(monkeypatch):
    """Keyword arguments that a setup.py gives to setuptools, without building anything."""

    def read(folder: Path) -> dict:
        seen: dict = {}
        monkeypatch.setattr(setuptools, "setup", lambda **kwargs: seen.update(kwargs))
        monkeypatch.chdir(folder)
        runpy.run_path(str(folder / "setup.py"))
        return seen

    return read


def declared_parameters(package: str, module: str) -> set[str]:
    """First string arguments of ``declare_parameter`` and of the node's ``value`` short-hand.

    Those of the class that the drivers of real robots share are theirs.
    """
    text = (WORKSPACE / package / package / f"{module}.py").read_text()
    if "(RobotDriver)" in text:
        text += (WORKSPACE / "realign_driver/realign_driver/robot_driver.py").read_text()
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and (getattr(node.func, "attr", None) or getattr(node.func, "id", None))
        in ("declare_parameter", "value")
    }


# ---- ROS packages ------------------------------------------------------------------------------


def test_the_distribution_carries_every_ros_package(read_setup):
    seen = read_setup(REPO)
    assert {name for name in seen["packages"] if name.startswith("realign_")} == set(ROS_PACKAGES)
    assert {"policies", "policies.runtime", "sim2real.sim", "calibration"} <= set(seen["packages"])
    for name, folder in seen["package_dir"].items():
        assert (REPO / folder / "__init__.py").is_file(), name
    (_, launch_files), *_ = seen["data_files"]
    assert sorted(Path(path).name for path in launch_files) == LAUNCH_FILES


@pytest.mark.parametrize("package", ROS_PACKAGES)
def test_ros_package_is_complete(package, read_setup):
    folder = WORKSPACE / package
    root = ElementTree.parse(folder / "package.xml").getroot()
    seen = read_setup(folder)
    assert root.get("format") == "3"
    assert root.findtext("name") == seen["name"] == package
    assert root.findtext("version") == seen["version"]
    assert root.findtext("export/build_type") == "ament_python"
    for _, sources in seen["data_files"]:
        assert sources, "a glob that finds nothing"
        assert all((folder / source).is_file() for source in sources)
    for script in seen.get("entry_points", {}).get("console_scripts", []):
        module = script.partition("=")[2].partition(":")[0].strip().partition(".")[2]
        tree = ast.parse((folder / package / f"{module}.py").read_text())
        assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("package", ROS_PACKAGES)
def test_package_xml_declares_what_the_nodes_import(package):
    root = ElementTree.parse(WORKSPACE / package / "package.xml").getroot()
    declared = {element.text for element in root.findall("exec_depend")}
    imported = {
        (node.module or "").partition(".")[0]
        if isinstance(node, ast.ImportFrom)
        else node.names[0].name.partition(".")[0]
        for path in (WORKSPACE / package / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    ros = {name for name in imported if name == "rclpy" or name.endswith(("_msgs", "_srvs"))}
    ours = imported & set(ROS_PACKAGES) - {package}
    assert (ros | ours) - {"builtin_interfaces"} <= declared


def test_dds_profile_is_the_default_of_every_participant():
    root = ElementTree.parse(WORKSPACE / "realign_bringup/realign_bringup/fastdds.xml").getroot()
    dds = {"dds": "http://www.eprosima.com"}
    participant = root.find(".//dds:participant", dds)
    assert participant.get("is_default_profile") == "true"
    used = {e.text for e in participant.findall(".//dds:userTransports/dds:transport_id", dds)}
    defined = root.findall(".//dds:transport_descriptor/dds:transport_id", dds)
    assert used == {element.text for element in defined}


# ---- launch files ------------------------------------------------------------------------------


class Recorded:
    """Stands for any launch action, and remembers what it was given."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


@pytest.fixture
def fake_launch(monkeypatch):
    """Modules ``launch`` and ``launch_ros`` as far as our files use them (they need an apt ROS)."""
    actions = ("DeclareLaunchArgument", "RegisterEventHandler", "SetEnvironmentVariable")
    actions += ("ExecuteProcess", "IncludeLaunchDescription", "SetLaunchConfiguration")
    content = {
        "launch": ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"),
        "launch.actions": (*actions, "OpaqueFunction", "Shutdown"),
        "launch.event_handlers": ("OnProcessExit",),
        "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
        "launch.substitutions": ("EnvironmentVariable", "LaunchConfiguration"),
        "launch_ros": (),
        "launch_ros.actions": ("LifecycleNode", "Node"),
    }
    for module, names in content.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module, fake)
    # Imported anew for each test, with the modules above.
    monkeypatch.syspath_prepend(WORKSPACE / "realign_bringup")
    for module in ("realign_bringup", "realign_bringup.parts"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def evaluate(name: str, **given: str) -> tuple[list, list]:
    """All entities of a launch file and of those it includes, and the nodes among them."""
    entities = _entities(name, dict(given))
    declared = {e.args[0] for e in entities if type(e).__name__ == "DeclareLaunchArgument"}
    assert set(given) <= declared
    return entities, [e for e in entities if type(e).__name__.endswith("Node")]


def _load(name: str) -> list:
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), REPO / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (waiting,) = module.generate_launch_description().args
    return waiting


def _entities(name: str, configurations: dict) -> list:
    """Carry a launch file out as `launch` does: in order, with configurations that stay."""
    return _carry_out(_load(name), configurations)


def _included(entity: Recorded) -> tuple[str, dict]:
    """File of an IncludeLaunchDescription, and the arguments that it hands on."""
    (path,) = entity.args[0].args
    assert Path(path).parent == REPO / "launch"
    return Path(path).name, dict(entity.kwargs["launch_arguments"])


def _required(waiting: list, handed_on: frozenset = frozenset()) -> set[str]:
    """Arguments without a default that `launch` misses before it includes ``waiting``.

    It looks at what the including file hands on, not at configurations that exist already.
    """
    missing: set[str] = set()
    for entity in waiting:
        kind = type(entity).__name__
        if kind == "DeclareLaunchArgument" and entity.kwargs["default_value"] is None:
            missing |= {entity.args[0]} - handed_on
        elif kind == "IncludeLaunchDescription":
            name, arguments = _included(entity)
            missing |= _required(_load(name), handed_on | set(arguments))
    return missing


def _carry_out(waiting: list, configurations: dict) -> list:
    done = []
    for entity in waiting:
        done.append(entity)
        kind = type(entity).__name__
        if kind == "DeclareLaunchArgument":
            default = entity.kwargs["default_value"]
            assert entity.args[0] in configurations or default is not None, entity.args[0]
            configurations.setdefault(entity.args[0], default)
        elif kind == "SetLaunchConfiguration":
            configurations[entity.args[0]] = entity.args[1]
        elif kind == "IncludeLaunchDescription":
            name, arguments = _included(entity)
            assert _required(_load(name), frozenset(arguments)) == set(), name
            for key, value in arguments.items():
                passed = type(value).__name__ == "LaunchConfiguration"
                configurations[key] = configurations[value.args[0]] if passed else value
            done += _entities(name, configurations)
        elif kind == "OpaqueFunction":
            context = types.SimpleNamespace(launch_configurations=configurations)
            done += _carry_out(entity.kwargs["function"](context), configurations)
    return done


def parameters_of(nodes: list) -> dict[str, dict]:
    """Parameters of launched nodes by ``package.executable``."""
    return {
        f"{node.kwargs['package']}.{node.kwargs['executable']}": {
            key: v for part in node.kwargs["parameters"] for key, v in part.items()
        }
        for node in nodes
    }


@pytest.fixture
def checkpoint(hold_policy) -> str:
    return str(hold_policy(PANDA))


GUARD, POLICY = "realign_policy.guard_node", "realign_policy.policy_node"
RECORDER, PLAYER = "realign_recorder.recorder_node", "realign_recorder.player_node"
MUJOCO = "realign_mujoco_driver.driver_node"
UNITREE = "realign_unitree_driver.driver_node"
FRANKA = "realign_franka_driver.driver_node"
TRAJECTORY = "realign_franka_driver.trajectory_node"
SERIAL, BUTTON = "realign_serial_driver.driver_node", "realign_serial_driver.estop_node"
WHOLE = frozenset({GUARD, POLICY, RECORDER})


@dataclass(frozen=True, kw_only=True)
class LaunchCase:
    """A launch file: its arguments, its nodes, and what `realign run` would be asked instead.

    Attributes:
        nodes: what it starts.
        run: fields of the RunConfig that it stands for.
        given: its arguments; CHECKPOINT and BAG stand for paths.
        plays: True where a motion takes the place of the policy.
    """

    nodes: frozenset[str]
    run: dict = field(default_factory=dict)
    given: dict = field(default_factory=dict)
    plays: bool = False

    def arguments(self, checkpoint: str, bag: str) -> dict[str, str]:
        paths = {"CHECKPOINT": checkpoint, "BAG": bag}
        return {key: paths.get(value, value) for key, value in self.given.items()}


SIMULATED = {"robot": "g1", "driver": "mujoco"}
AT_ETH0 = {"driver": "unitree", "network": "eth0"}
AT_BOX = {"driver": "franka", "network": "172.16.0.2"}
ON_A_PORT = {"driver": "serial", "port": "/dev/ttyACM0", "robot": "so101"}
BOTH = {"policy": "CHECKPOINT", "record": "BAG"}
LAUNCH_CASES = {
    "environment.launch.py": LaunchCase(nodes=frozenset()),
    "record.launch.py": LaunchCase(
        nodes=frozenset({RECORDER}), run=SIMULATED, given={**SIMULATED, **BOTH}
    ),
    "robot.launch.py": LaunchCase(
        nodes=frozenset({GUARD, POLICY}),
        run={"robot": "panda", "driver": "mujoco"},
        given={"robot": "panda", "policy": "CHECKPOINT"},
    ),
    "sim.launch.py": LaunchCase(
        nodes=WHOLE | {MUJOCO}, run=SIMULATED, given={"robot": "g1", **BOTH}
    ),
    "unitree.launch.py": LaunchCase(
        nodes=WHOLE | {UNITREE},
        run={"robot": "go2", **AT_ETH0},
        given={"robot": "go2", "network": "eth0", **BOTH},
    ),
    "g1.launch.py": LaunchCase(
        nodes=WHOLE | {UNITREE},
        run={"robot": "g1", **AT_ETH0},
        given={"network": "eth0", **BOTH},
    ),
    "go2.launch.py": LaunchCase(
        nodes=WHOLE | {UNITREE},
        run={"robot": "go2", **AT_ETH0},
        given={"network": "eth0", **BOTH},
    ),
    "franka.launch.py": LaunchCase(
        nodes=WHOLE | {FRANKA},
        run={"robot": "fr3", **AT_BOX},
        given={"robot": "fr3", "network": "172.16.0.2", **BOTH},
    ),
    "fr3.launch.py": LaunchCase(
        nodes=WHOLE | {FRANKA},
        run={"robot": "fr3", **AT_BOX},
        given={"network": "172.16.0.2", **BOTH},
    ),
    "panda.launch.py": LaunchCase(
        nodes=WHOLE | {TRAJECTORY},
        run={"robot": "panda", "driver": "mujoco"},
        given={"controller": "/jtc", **BOTH},
    ),
    "replay.launch.py": LaunchCase(
        nodes=frozenset({MUJOCO, GUARD, RECORDER, PLAYER}),
        run=SIMULATED,
        given={"robot": "g1", "bag": "BAG", "record": "BAG"},
        plays=True,
    ),
    "calibrate.launch.py": LaunchCase(
        nodes=frozenset({SERIAL, GUARD, RECORDER, PLAYER}),
        run=ON_A_PORT,
        given={"robot": "so101", "driver": "serial", "record": "BAG", "trajectory": "m.json"},
        plays=True,
    ),
    "serial.launch.py": LaunchCase(
        nodes=WHOLE | {SERIAL},
        run=ON_A_PORT,
        given={"robot": "so101", "port": "/dev/ttyACM0", **BOTH},
    ),
    "so101.launch.py": LaunchCase(
        nodes=WHOLE | {SERIAL},
        run=ON_A_PORT,
        given={"port": "/dev/ttyACM0", **BOTH},
    ),
}


def test_every_launch_file_has_a_case():
    assert sorted(LAUNCH_CASES) == LAUNCH_FILES


@pytest.mark.usefixtures("fake_launch")
@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_launch_file_gives_the_graph_of_realign_run(
    name, checkpoint, tmp_path, read_setup, monkeypatch
):
    case, bag = LAUNCH_CASES[name], str(tmp_path / "bag")
    _, nodes = evaluate(name, **case.arguments(checkpoint, bag))
    ours = parameters_of(nodes)
    assert set(ours) == case.nodes
    for node, parameters in ours.items():
        package, executable = node.split(".")
        scripts = read_setup(WORKSPACE / package)["entry_points"]["console_scripts"]
        assert f"{executable} = {package}.{executable}:main" in scripts
        assert set(parameters) <= declared_parameters(package, executable)
    if not case.run:
        return
    theirs: dict[str, dict] = {}
    graph = types.SimpleNamespace(folder=tmp_path, domain_id=1)
    graph.start = lambda _, module, parameters: theirs.update({module: parameters})
    spec = types.SimpleNamespace(name="p", sha256="0", rate_hz=50.0, needs=("goal",))
    policy = types.SimpleNamespace(spec=spec)
    monkeypatch.setattr("policies.checkpoint.load_policy", lambda *_, **__: policy)
    config = RunConfig(policy=Path(checkpoint), record=Path(bag), **case.run)
    run._start_nodes(graph, config, spec)
    # A launch file waits for an operator to configure the policy and to arm, `run` only for the
    # remote's key; the bag is told what runs by each in its own words, and only `run` asks for
    # real-time priority, and makes up goals for a robot that is not simulated, by itself.
    own = {"autostart", "auto_arm", "provenance", "wait_for", "realtime_priority"}
    own |= {"goals"} if case.run["driver"] != "mujoco" else set()
    own |= {"policy", "goals", "port", "port_wait_s"} if case.plays else set()
    shared = ours.keys() & theirs.keys()
    assert shared
    for node in shared:
        for key in ours[node].keys() & theirs[node].keys() - own:
            assert ours[node][key] == theirs[node][key], (node, key)


@pytest.mark.usefixtures("fake_launch")
def test_sim_launch_types_and_options(checkpoint):
    options = {"lockstep": "true", "seed": "7", "duration_s": "3", "record": "bag"}
    options["gap"] = "hidden:7"
    entities, nodes = evaluate("sim.launch.py", robot="g1", policy=checkpoint, **options)
    parameters = parameters_of(nodes)
    assert parameters[MUJOCO]["duration_s"] == 3.0
    assert isinstance(parameters[MUJOCO]["duration_s"], float)
    assert parameters[MUJOCO]["wait_for"] == "guard,policy,recorder"
    assert parameters[POLICY]["seed"] == 7
    assert parameters[GUARD]["lockstep"] is True
    assert parameters[GUARD]["policy_rate_hz"] == 50.0
    assert parameters[GUARD]["auto_arm"] is parameters[POLICY]["autostart"] is True
    assert Path(parameters[RECORDER]["out"]).is_absolute()
    assert json.loads(parameters[RECORDER]["provenance"])["gap"] == "hidden"
    environment = [e for e in entities if type(e).__name__ == "SetEnvironmentVariable"]
    profile = environment[0].args[1].kwargs["default_value"]
    assert Path(profile).is_file()
    _, nodes = evaluate("sim.launch.py", robot="g1", policy=checkpoint)
    assert len(nodes) == 3
    _, nodes = evaluate("sim.launch.py", robot="g1", policy="")
    assert set(parameters_of(nodes)) == {MUJOCO, GUARD}


@pytest.mark.usefixtures("fake_launch")
def test_launch_files_know_policies_of_every_kind(tmp_path):
    reach = str(REPO / "policies/checkpoints/panda_reach")
    _, nodes = evaluate("sim.launch.py", robot="panda", policy=reach)
    assert parameters_of(nodes)[GUARD]["policy_rate_hz"] == inspect(Path(reach))["rate_hz"]
    with pytest.raises(InputError, match="expected a policy checkpoint"):
        evaluate("sim.launch.py", robot="panda", policy=str(tmp_path / "typo"))


@pytest.mark.usefixtures("fake_launch")
@pytest.mark.parametrize("robot", ["g1", "go2"])
def test_unitree_launch_is_real_with_a_network_and_emulated_without(robot, checkpoint):
    given = {"policy": checkpoint, "network": "eth0", "record": "bag"}
    entities, nodes = evaluate(f"{robot}.launch.py", **given)
    parameters = parameters_of(nodes)
    assert parameters[UNITREE]["robot"] == parameters[GUARD]["robot"] == robot
    assert parameters[UNITREE]["network"] == "eth0"
    assert parameters[UNITREE]["dds_domain"] == 0
    assert parameters[UNITREE]["release"] is True
    assert parameters[GUARD]["auto_arm"] is parameters[POLICY]["autostart"] is False
    assert json.loads(parameters[RECORDER]["provenance"])["driver"] == "unitree"
    assert not [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    entities, nodes = evaluate(f"{robot}.launch.py", policy=checkpoint)
    (emulator,) = [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    driver = parameters_of(nodes)[UNITREE]
    words = emulator.kwargs["cmd"]
    assert words[words.index("--domain") + 1] == str(driver["dds_domain"])
    assert driver["network"] == "lo"


@pytest.mark.usefixtures("fake_launch")
def test_so101_launch_is_emulated_without_a_port_and_watches_its_button(checkpoint):
    entities, nodes = evaluate("so101.launch.py", policy=checkpoint)
    (emulator,) = [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    words, parameters = emulator.kwargs["cmd"], parameters_of(nodes)
    for option in ("link", "calibration"):
        key = {"link": "port"}.get(option, option)
        assert words[words.index(f"--{option}") + 1] == parameters[SERIAL][key]
    assert parameters[SERIAL]["port_wait_s"] > 0.0
    assert parameters[GUARD]["operator_timeout_s"] == 0.0
    given = {"policy": checkpoint, "port": "/dev/ttyACM0", "estop_port": "/dev/ttyUSB0"}
    entities, nodes = evaluate("so101.launch.py", **given)
    assert not [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    parameters = parameters_of(nodes)
    assert parameters[SERIAL] | {"port": "/dev/ttyACM0", "port_wait_s": 0.0} == parameters[SERIAL]
    assert parameters[GUARD]["auto_arm"] is parameters[POLICY]["autostart"] is False
    assert parameters[BUTTON]["port"] == "/dev/ttyUSB0"
    assert parameters[GUARD]["operator_timeout_s"] == 0.25


@pytest.mark.usefixtures("fake_launch")
def test_franka_launch_is_real_emulated_or_left_to_ros2_control(checkpoint):
    entities, nodes = evaluate("fr3.launch.py", policy=checkpoint, network="172.16.0.2")
    assert parameters_of(nodes)[FRANKA]["network"] == "172.16.0.2"
    assert not [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    entities, nodes = evaluate("panda.launch.py", policy=checkpoint)
    (emulator,) = [e for e in entities if type(e).__name__ == "ExecuteProcess"]
    words, driver = emulator.kwargs["cmd"], parameters_of(nodes)[FRANKA]
    assert words[words.index("--address") + 1] == driver["network"]
    assert words[words.index("--robot") + 1] == driver["robot"] == "panda"
    _, nodes = evaluate("panda.launch.py", policy=checkpoint, controller="/jtc", prefix="left_")
    assert FRANKA not in parameters_of(nodes)
    assert parameters_of(nodes)[TRAJECTORY]["prefix"] == "left_"
    (ours,) = {dict(n.kwargs["remappings"])["joint_states"] for n in nodes}
    assert ours != parameters_of(nodes)[TRAJECTORY]["robot_states"]


@pytest.mark.usefixtures("fake_launch")
@pytest.mark.parametrize(
    ("driver", "address"),
    [
        ("mujoco", {}),
        ("serial", {"port": "/dev/ttyACM0"}),
        ("unitree", {"network": "eth0"}),
    ],
)
def test_a_motion_starts_by_itself_on_a_virtual_robot_only(driver, address):
    robot = {"unitree": "go2"}.get(driver, "so101")
    for name, what in (("replay", {"bag": "b"}), ("calibrate", {"trajectory": "m", "record": "r"})):
        given = {"robot": robot, "driver": driver, **address, **what}
        entities, nodes = evaluate(f"{name}.launch.py", **given)
        parameters = parameters_of(nodes)
        alone = driver == "mujoco"
        assert parameters[PLAYER]["autostart"] is parameters[GUARD]["auto_arm"] is alone
        assert parameters[PLAYER]["robot"] == parameters[GUARD]["robot"] == robot
        assert POLICY not in parameters
        assert not [e for e in entities if type(e).__name__ == "ExecuteProcess"]
        (player,) = [node for node in nodes if node.kwargs["executable"] == "player_node"]
        assert type(player.kwargs["on_exit"]).__name__ == "Shutdown"
        if alone:
            assert "player" in parameters[MUJOCO]["wait_for"].split(",")
    _, nodes = evaluate("calibrate.launch.py", robot=robot, driver=driver, record="r", **address)
    assert PLAYER not in parameters_of(nodes)


@pytest.mark.usefixtures("fake_launch")
def test_robot_launch_moves_nothing_by_itself(checkpoint):
    _, (guard, policy) = evaluate(
        "robot.launch.py", robot="panda", policy=checkpoint, joint_states="/franka/joint_states"
    )
    parameters = parameters_of([guard, policy])
    assert parameters[GUARD]["auto_arm"] is False
    assert parameters[POLICY]["autostart"] is False
    assert guard.kwargs["remappings"] == [("joint_states", "/franka/joint_states")]


# ---- requirements ------------------------------------------------------------------------------


def test_every_requirement_has_a_tested_version(read_setup):
    seen = read_setup(REPO)
    name = re.compile(r"[A-Za-z0-9._-]+")
    wanted = [*seen["install_requires"], *(r for e in seen["extras_require"].values() for r in e)]
    constraints = (REPO / "constraints.txt").read_text().splitlines()
    pinned = {name.match(row).group().lower() for row in constraints if row[:1] != "#"}
    assert {name.match(requirement).group().lower() for requirement in wanted} <= pinned
    assert all("==" in row for row in constraints if row[:1] != "#")
    assert "torch==2.13.0" in constraints


# ---- house rules -------------------------------------------------------------------------------


def test_folders_that_must_not_be_packages():
    assert not list((REPO / "launch").rglob("__init__.py"))
    assert not list((REPO / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_no_unsafe_loader_or_wall_clock(path):
    """Refused: pickle, eval, exec, torch.load without weights_only, yaml.load, time.time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"pickle", "dill", "marshal"}
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in ("pickle", "dill", "marshal")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in ("eval", "exec", "time.time", "yaml.load", "yaml.unsafe_load")
            if called == "torch.load":
                assert keywords.get("weights_only") == "True"
            assert keywords.get("allow_pickle", "False") == "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_modules_and_functions_stay_readable(path):
    """At most 400 lines a module, and 60 a function below its docstring."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 60, node.name


# ---- documents ---------------------------------------------------------------------------------


def commands_of(document: Path) -> list[str]:
    """Lines of its shell blocks that call ``realign``, with continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", document.read_text(), flags=re.DOTALL)
    lines = [row.strip() for block in blocks for row in block.replace("\\\n", " ").splitlines()]
    return [row for row in lines if row.startswith("realign ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_documents_name_commands_and_options_that_exist(document, capsys):
    for line in commands_of(document):
        words = shlex.split(line, comments=True)[1:]
        if words[0].startswith("--"):
            continue
        paths = [path for path in cli.COMMANDS if tuple(words[: len(path)]) == path]
        assert paths, f"no such command: {line}"
        assert cli.main([*paths[0], "--help"]) == 0
        usage = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option.partition("=")[0] in usage, f"no {option} in: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_documents_link_to_files_that_exist(document):
    for target in re.findall(
        r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", document.read_text()
    ):
        path = target[0] or target[1]
        if "://" not in path:
            assert (document.parent / path).exists(), path


def test_every_test_that_the_fault_table_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (REPO / "docs/faults.md").read_text()))
    folders = (REPO / "tests" / name for name in ("faults", "sim_in_the_loop"))
    text = "\n".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in text} == set()
