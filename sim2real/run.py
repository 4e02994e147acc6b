"""`realign run`: the whole graph without `ros2 launch`, each node a process of its own.

driver, guard, policy and recorder are started on a private ROS domain, watched, and stopped by
process id; each leaves a JSON summary, and this module puts them together.
"""

from __future__ import annotations

import importlib.util
import json as json_module
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from policies.errors import FaultError, InputError
from policies.interface import PolicySpec

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What to run.

    Attributes:
        robot: robot name.
        policy: checkpoint directory.
        driver: what plays the robot.
        lockstep: the simulator waits for the command that answers its stamp.
        duration_s: length, s; default: the policy's motion, or all goals.
        record: bag directory to write, or None.
        seed: seed of the start pose, goals and policy.
        gap: dynamics gap of the virtual robot.
        faults: sensor faults of the virtual robot, e.g. ``nan_state@1.0:0.2``.
        goals: number of goals for a goal-conditioned policy.
        goal_period_s: time for each goal, s.
        domain_id: ROS domain; None for a private one.
    """

    robot: str
    policy: Path
    driver: Literal["mujoco"] = "mujoco"
    lockstep: bool = False
    duration_s: float | None = None
    record: Path | None = None
    seed: int = 0
    gap: str = "none"
    faults: str = ""
    goals: int = 5
    goal_period_s: float = 4.0
    domain_id: int | None = None


@dataclass
class _Process:
    name: str
    popen: subprocess.Popen[str]
    log: Path


@dataclass
class Graph:
    """Processes of a running graph; a context manager that leaves none behind."""

    folder: Path
    domain_id: int
    processes: list[_Process] = field(default_factory=list)

    def start(self, name: str, module: str, parameters: dict[str, Any]) -> _Process:
        """Start ``python -m module`` with ROS parameters; output goes to a log file."""
        params = self.folder / f"{name}.yaml"
        params.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        log = self.folder / f"{name}.log"
        with log.open("w") as sink:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, "--ros-args", "--params-file", str(params)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if parameters.get("progress") else sink,
                stderr=sink,
                text=True,
                env=ros_environment(self.domain_id),
                start_new_session=True,  # Ctrl-C reaches us first: nodes stop in order
            )
        process = _Process(name, popen, log)
        self.processes.append(process)
        return process

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all in order of start's reverse: SIGINT, then SIGKILL after a time limit."""
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for process in self.processes:
            try:
                process.popen.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            if process.popen.stdout:
                process.popen.stdout.close()

    def dead(self) -> _Process | None:
        """The first process that ended by itself, if any (the driver may)."""
        for process in self.processes:
            if process.name != "driver" and process.popen.poll() is not None:
                return process
        return None


def ros_environment(domain_id: int) -> dict[str, str]:
    """Environment of a node: private domain, this host only, quick discovery."""
    profile = importlib.util.find_spec("realign_bringup")
    env = dict(os.environ, ROS_DOMAIN_ID=str(domain_id), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    env.update(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    if profile and profile.origin and "FASTDDS_DEFAULT_PROFILES_FILE" not in env:
        env["FASTDDS_DEFAULT_PROFILES_FILE"] = str(Path(profile.origin).with_name("fastdds.xml"))
    return env


def require_ros() -> None:
    """Raise InputError where rclpy is not installed."""
    if importlib.util.find_spec("rclpy") is None:
        raise InputError(
            "expected ROS 2 (rclpy), but it is not installed; run: pip install 'realign[ros]', or "
            "source a ROS 2 installation; `realign doctor` shows what else is missing"
        )


def private_domain_id() -> int:
    """A ROS domain of this process's own, 1 to 100."""
    return 1 + os.getpid() % 100


def run(config: RunConfig, *, progress: bool = True, description: str = "run") -> dict[str, Any]:
    """Bring the graph up, let the policy run, stop everything, and say how it went.

    Returns:
        The JSON of the command contract, plus ``wall_s``, ``mujoco_s``, ``inference_s`` and the
        guard's ``transitions``.

    Raises:
        InputError: bad checkpoint, robot, gap or output path.
        FaultError: a process died or the graph did not come up.
    """
    from policies.checkpoint import load_policy
    from policies.robots import get_robot
    from sim2real.sim.gaps import make_gap
    from sim2real.sim.virtual_robot import parse_faults

    require_ros()
    robot = get_robot(config.robot)
    spec = load_policy(config.policy, robot).spec
    make_gap(robot, config.gap)
    parse_faults(config.faults)
    if config.duration_s is not None and config.duration_s <= 0:
        raise InputError(f"expected a duration above 0 s, got {config.duration_s:g}")
    if config.record is not None and config.record.exists():
        raise InputError(f"{config.record} exists already; choose another bag directory")
    domain = config.domain_id if config.domain_id is not None else private_domain_id()
    with tempfile.TemporaryDirectory(prefix="realign_run_") as folder:
        with Graph(Path(folder), domain) as graph:
            _start_nodes(graph, config, spec)
            _watch(graph, progress=progress, description=description)
        summaries = _read_summaries(graph)
    return _result(config, spec, summaries)


def _start_nodes(graph: Graph, config: RunConfig, spec: PolicySpec) -> None:
    from policies.robots import get_robot

    # In real time the guard comes first, then the robot, then the policy.
    common: dict[str, Any] = {"robot": config.robot, "lockstep": config.lockstep}
    priority = lambda level: {"realtime_priority": 0 if config.lockstep else level}  # noqa: E731
    summary = lambda name: str(graph.folder / f"{name}.json")  # noqa: E731
    if config.record:
        provenance = json_module.dumps(_provenance(config, spec))
        topics = ["joint_states", "action_chunk", "joint_command", "episode"]
        topics += ["imu", "odom"] * get_robot(config.robot).floating_base
        parameters = {
            "out": str(config.record.resolve()),
            "provenance": provenance,
            "wait_for": ",".join(topics),
        }
        graph.start("recorder", "realign_recorder.recorder_node", parameters)
    policy = {"policy": str(config.policy.resolve()), "seed": config.seed}
    driver = {
        "gap": config.gap,
        "faults": config.faults,
        "goals": config.goals if "goal" in spec.needs else 0,
        "goal_period_s": float(config.goal_period_s),
        "duration_s": float(config.duration_s or 0.0),
        "wait_for": ",".join(["guard", "policy"] + ["recorder"] * bool(config.record)),
        "progress": True,
        "summary_path": summary("driver"),
    }
    guard = {
        "auto_arm": True,
        "policy_rate_hz": float(spec.rate_hz),
        "summary_path": summary("guard"),
    }
    graph.start("guard", "realign_policy.guard_node", common | guard | priority(22))
    answers = {
        "autostart": True,
        "summary_path": summary("policy"),
    }
    graph.start("policy", "realign_policy.policy_node", common | policy | answers | priority(20))
    graph.start(
        "driver", "realign_mujoco_driver.driver_node", common | policy | driver | priority(21)
    )


def _watch(graph: Graph, *, progress: bool, description: str) -> None:
    """Follow the driver's progress until it ends; a dead process or a standstill is a fault."""
    driver = next(p for p in graph.processes if p.name == "driver")
    heard = [time.monotonic() + _START_TIMEOUT_S / 2]
    bar = tqdm(total=1.0, desc=description, unit="s", disable=None if progress else True)

    def follow() -> None:
        assert driver.popen.stdout is not None
        for line in driver.popen.stdout:
            word, *numbers = line.split()
            if word == "progress":
                done, total = (float(x) for x in numbers)
                bar.total = total
                bar.update(done - bar.n)
                heard[0] = time.monotonic()

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        while driver.popen.poll() is None:
            dead = graph.dead()
            if dead is not None:
                raise FaultError(f"the {dead.name} process ended early: {_last_words(dead)}")
            if time.monotonic() - heard[0] > _START_TIMEOUT_S / 2:
                words = "; ".join(f"{p.name}: {_last_words(p)}" for p in graph.processes)
                raise FaultError(f"no progress for {_START_TIMEOUT_S / 2:g} s ({words})")
            time.sleep(0.02)
    finally:
        graph.stop()
        reader.join(timeout=1.0)
        bar.close()
    if driver.popen.returncode != 0:
        raise FaultError(f"the driver failed: {_last_words(driver)}")


def _last_words(process: _Process) -> str:
    lines = process.log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.popen.returncode}"


def _read_summaries(graph: Graph) -> dict[str, dict[str, Any]]:
    out = {}
    for process in graph.processes:
        path = graph.folder / f"{process.name}.json"
        if path.exists():
            out[process.name] = json_module.loads(path.read_text())
        elif process.name != "recorder":
            raise FaultError(f"the {process.name} left no summary: {_last_words(process)}")
    return out


def _result(
    config: RunConfig, spec: PolicySpec, parts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    driver, guard, policy = parts["driver"], parts["guard"], parts["policy"]
    # What the guard did after the robot had finished and gone is the end of the run, not a fault.
    edges = [edge for edge in guard["transitions"] if edge[0] < driver["end_stamp_ns"]]
    stops = [edge for edge in edges if edge[2] in ("hold", "damp")]
    state = edges[-1][2] if edges else "inactive"
    return {
        "robot": config.robot,
        "policy": spec.name,
        "driver": config.driver,
        "lockstep": config.lockstep,
        "seed": config.seed,
        "steps": driver["steps"],
        "duration_s": driver["duration_s"],
        "completed": driver["finished"] and not driver["fell"] and not stops,
        "fell": driver["fell"],
        "min_base_height_m": driver["min_base_height_m"],
        "max_tilt_rad": driver["max_tilt_rad"],
        "latency_ms": guard["latency_ms"],
        "guard": {"refused": guard["refused"], "clamped": guard["clamped"], "state": state},
        "bag": str(config.record) if config.record else None,
        "refused_by_reason": guard["refused_by_reason"],
        "stopped_by": stops[-1][3] if stops else None,
        "guard_loop_late_ms": guard["loop_late_ms"],
        "wall_s": driver["wall_s"],
        "mujoco_s": driver["mujoco_s"],
        "inference_s": policy["inference_total_s"],
        "transitions": edges,
    }


def _provenance(config: RunConfig, spec: PolicySpec) -> dict[str, str]:
    from policies.robots import get_robot

    return {
        "robot": config.robot,
        "robot_fingerprint": get_robot(config.robot).fingerprint,
        "policy": spec.name,
        "policy_sha256": spec.sha256,
        "git_commit": _git_commit(),
        "seed": str(config.seed),
        "driver": config.driver,
        "lockstep": str(config.lockstep).lower(),
        # The gap of a virtual robot is what a delta model must find: it is not told here.
        "gap": "hidden" if config.gap.startswith("hidden") else config.gap,
    }


def _git_commit() -> str:
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


def run_command(
    robot: str,
    policy: Path,
    driver: Literal["mujoco"] = "mujoco",
    lockstep: bool = False,
    duration_s: float | None = None,
    record: Path | None = None,
    seed: int = 0,
    gap: str = "none",
    faults: str = "",
    goals: int = 5,
    goal_period_s: float = 4.0,
    domain_id: int | None = None,
    json: Path | None = None,
) -> None:
    """Run a policy on a robot through the ROS graph: driver, guard, policy, recorder.

    Args:
        robot: robot name, e.g. g1 or panda.
        policy: checkpoint directory.
        driver: what plays the robot.
        lockstep: the simulator waits for each command; reproducible for a seed.
        duration_s: length in s; default: the policy's motion, or all goals.
        record: bag directory to write.
        seed: seed of start pose, goals and policy.
        gap: dynamics gap of the virtual robot, e.g. payload, sticky, latency, hidden:7.
        faults: sensor faults of the virtual robot, e.g. nan_state@1.0:0.2 (start:duration, s).
        goals: number of goals for a goal-conditioned policy.
        goal_period_s: time for each goal in s.
        domain_id: ROS domain; default: a private one.
        json: file for the machine-readable result.
    """
    config = RunConfig(
        robot=robot,
        policy=policy,
        driver=driver,
        lockstep=lockstep,
        duration_s=duration_s,
        record=record,
        seed=seed,
        gap=gap,
        faults=faults,
        goals=goals,
        goal_period_s=goal_period_s,
        domain_id=domain_id,
    )
    result = run(config, description=f"{robot} {'lockstep' if lockstep else 'real time'}")
    if json is not None:
        json.write_text(json_module.dumps(result, indent=1) + "\n")
    print(summary_line(result))
    if result["stopped_by"]:
        raise FaultError(
            f"the guard stopped the robot after {result['duration_s']:.2f} s at the latest: "
            f"{result['stopped_by']}"
        )


def summary_line(result: dict[str, Any]) -> str:
    """One line a person reads after a run."""
    how = "completed" if result["completed"] else ("fell" if result["fell"] else "not completed")
    base = ""
    if result["min_base_height_m"] is not None:
        base = f", base >= {result['min_base_height_m']:.2f} m"
        base += f", tilt <= {result['max_tilt_rad'] * 57.29578:.0f} deg"
    latency = result["latency_ms"]["p50"]
    timing = f", latency p50 {latency:.2f} ms" if latency is not None else ""
    return (
        f"{result['policy']} on {result['robot']}: {how}, {result['duration_s']:.2f} s in "
        f"{result['wall_s']:.2f} s wall{base}{timing}, refused {result['guard']['refused']}, "
        f"clamped {result['guard']['clamped']}"
    )
