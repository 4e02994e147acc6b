"""`realign run`: the whole graph without `ros2 launch`, each node a process of its own.

driver, guard, policy and recorder are started on a private ROS domain, watched, and stopped by
process id; each leaves a JSON summary, and this module puts them together.
"""

from __future__ import annotations

import json as json_module
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from policies.errors import FaultError, InputError
from policies.interface import PolicySpec
from sim2real.graph import Graph, last_words, private_domain_id, require_ros, watch
from sim2real.results import check_new, write_json
from sim2real.run_config import Driver, Engine, ExecutorName, Images, RunConfig
from sim2real.run_hardware import hardware
from sim2real.serve_cli import local_policy


def run(config: RunConfig, *, progress: bool = True, description: str = "run") -> dict[str, Any]:
    """Bring the graph up, let the policy run, stop everything, and say how it went.

    Returns:
        The JSON of the command contract, plus ``wall_s``, ``mujoco_s``, ``inference_s`` and the
        guard's ``transitions``.

    Raises:
        InputError: bad checkpoint, robot, gap, engine or output path.
        FaultError: a process died or the graph did not come up.
    """
    from policies.checkpoint import load_policy
    from policies.robots import get_robot
    from policies.runtime.planning import cameras_of
    from sim2real.sim.gaps import make_gap
    from sim2real.sim.virtual_robot import parse_faults

    require_ros()
    robot = get_robot(config.robot)
    policy = load_policy(config.policy, robot)
    spec, cameras = policy.spec, cameras_of(policy) if config.record_images != "none" else ()
    make_gap(robot, config.gap)
    if config.driver == "mujoco":
        parse_faults(config.faults)
        if not config.emulated:
            raise InputError(
                "expected no --network and no --port for a simulated robot; "
                "name its driver, e.g. --driver unitree"
            )
    else:
        hardware(config.driver).check(config)
    if "instruction" in spec.needs and not config.instruction:
        raise InputError(
            f"expected --instruction for {spec.name}, which is told in words what to do, got none"
        )
    _check_length(config, spec)
    if config.record is not None and config.record.exists():
        raise InputError(f"{config.record} exists already; choose another bag directory")
    domain = config.domain_id if config.domain_id is not None else private_domain_id()
    with tempfile.TemporaryDirectory(prefix="realign_run_") as folder:
        with Graph(Path(folder), domain) as graph:
            _start_nodes(graph, config, spec, tuple(camera.name for camera in cameras))
            watch(graph, progress=progress, description=description)
        summaries = _read_summaries(graph)
        recorders = [p for p in graph.processes if p.name == "recorder"]
        lost = [last_words(p) for p in recorders if p.popen.returncode != 0]
    return _result(config, spec, summaries) | {"recorder_fault": lost[0] if lost else None}


def _check_length(config: RunConfig, spec: PolicySpec) -> None:
    """Refuse lengths that no run can have, and one without an end where nobody could set a goal."""
    if config.duration_s is not None and not config.duration_s > 0:
        raise InputError(f"expected a duration above 0 s, got {config.duration_s:g}")
    if "goal" not in spec.needs:
        return
    if not config.goal_period_s > 0:
        raise InputError(
            f"expected a time above 0 s for each goal, got {config.goal_period_s:g}; give "
            "--goal-period-s in s"
        )
    private = config.emulated and config.domain_id is None
    if config.goals < 0 or (config.goals == 0 and config.duration_s is None and private):
        raise InputError(
            f"expected at least 1 goal for {spec.name}, got {config.goals}; give --goals, or "
            "--goals 0 with --duration-s and --domain-id to publish goals of your own"
        )


def _start_nodes(
    graph: Graph, config: RunConfig, spec: PolicySpec, cameras: tuple[str, ...] = ()
) -> None:
    from policies.robots import get_robot

    # In real time the guard comes first, then the robot, then the policy.
    common: dict[str, Any] = {"robot": config.robot, "lockstep": config.lockstep}

    def summary(name: str) -> str:
        return str(graph.folder / f"{name}.json")

    def priority(level: int) -> dict[str, int]:
        return {"realtime_priority": 0 if config.lockstep else level}

    if config.record:
        provenance = json_module.dumps(_provenance(config, spec))
        topics = ["joint_states", "action_chunk", "joint_command", "episode"]
        if get_robot(config.robot).floating_base:  # a real one does not know where it is
            topics += ["imu"] + ["odom"] * (config.driver == "mujoco")
        topics += ["policy/instruction"] * bool(config.instruction)
        parameters = {
            "out": str(config.record.resolve()),
            "provenance": provenance,
            "wait_for": ",".join([*topics, *(f"{name}/image_raw" for name in cameras)]),
            "cameras": ",".join(cameras),
            "images": config.record_images,
            "lockstep": config.lockstep,
            "summary_path": summary("recorder"),
            **priority(10),
        }
        graph.start("recorder", "realign_recorder.recorder_node", parameters)
    policy = {"policy": str(config.policy.resolve()), "seed": config.seed}
    guard = {
        "auto_arm": True,
        "policy_rate_hz": float(spec.rate_hz),
        "summary_path": summary("guard"),
    }
    graph.start("guard", "realign_policy.guard_node", common | guard | priority(22))
    answers = {
        "autostart": True,
        "summary_path": summary("policy"),
        "executor": config.executor,
        "action_horizon": config.action_horizon or 0,
        "inference_delay_steps": config.inference_delay,
        "in_flight": config.in_flight,
        "fade": -1 if config.fade is None else config.fade,
        "deadline_s": float(config.deadline_s),
        "instruction": config.instruction,
    }
    graph.start("policy", "realign_policy.policy_node", common | policy | answers | priority(20))
    driver = {
        "duration_s": float(config.duration_s or 0.0),
        "wait_for": ",".join(["guard", "policy"] + ["recorder"] * bool(config.record)),
        "progress": True,
        "summary_path": summary("driver"),
        **priority(21),
    }
    _start_driver(graph, config, spec, common | policy | driver)


def _start_driver(
    graph: Graph, config: RunConfig, spec: PolicySpec, driver: dict[str, Any]
) -> None:
    task = {
        "goals": config.goals if "goal" in spec.needs else 0,
        "goal_period_s": float(config.goal_period_s),
    }
    if config.driver != "mujoco":
        own = {key: value for key, value in driver.items() if key != "lockstep"}
        hardware(config.driver).start(graph, config, own | task)
        return
    simulated = {"engine": config.engine, "gap": config.gap, "faults": config.faults}
    graph.start("driver", "realign_mujoco_driver.driver_node", driver | task | simulated)


def _read_summaries(graph: Graph) -> dict[str, dict[str, Any]]:
    out = {}
    for process in graph.processes:
        path = graph.folder / f"{process.name}.json"
        if path.exists():
            out[process.name] = json_module.loads(path.read_text())
        elif process.name != "recorder":
            raise FaultError(f"the {process.name} left no summary: {last_words(process)}")
    return out


def _result(
    config: RunConfig, spec: PolicySpec, parts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    driver, guard, policy = parts["driver"], parts["guard"], parts["policy"]
    driver |= parts.get("emulator", {})  # which knows more of the robot than its driver can
    # What the guard did after the robot had finished and gone is the end of the run, not a fault.
    edges = [edge for edge in guard["transitions"] if edge[0] < driver["end_stamp_ns"]]
    stops = [edge for edge in edges if edge[2] in ("hold", "damp")]
    state = edges[-1][2] if edges else "unconfigured"
    return {
        "robot": config.robot,
        "policy": spec.name,
        "driver": config.driver,
        "engine": config.engine,
        "lockstep": config.lockstep,
        "seed": config.seed,
        "steps": driver["steps"],
        "duration_s": driver["duration_s"],
        "completed": driver["finished"] and not driver["fell"] and not stops,
        "fell": driver["fell"],
        "min_base_height_m": driver["min_base_height_m"],
        "max_tilt_rad": driver["max_tilt_rad"],
        "rise_m": driver.get("rise_m", {}),  # of the things that a virtual robot can grasp
        "latency_ms": guard["latency_ms"],
        "guard": {"refused": guard["refused"], "clamped": guard["clamped"], "state": state},
        "driver_stops": driver.get("stops", []),
        "bag": str(config.record) if config.record else None,
        "images": parts.get("recorder", {}).get("cameras", {}),
        "refused_by_reason": guard["refused_by_reason"],
        "stopped_by": stops[-1][3] if stops else None,
        "guard_loop_late_ms": guard["loop_late_ms"],
        "wall_s": driver["wall_s"],
        "mujoco_s": driver["mujoco_s"],
        "inference_s": policy["inference_total_s"],
        "inference_ms": policy["inference_ms"],
        "policy_failure": policy["failure"],
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
        "engine": config.engine,
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
    policy: str,
    driver: Driver = "mujoco",
    network: str = "",
    port: str = "",
    dds_domain: int = 0,
    engine: Engine = "mujoco",
    lockstep: bool = False,
    duration_s: float | None = None,
    record: Path | None = None,
    record_images: Images = "compressed",
    seed: int = 0,
    gap: str = "none",
    faults: str = "",
    goals: int = 5,
    goal_period_s: float = 4.0,
    domain_id: int | None = None,
    executor: ExecutorName = "receding",
    action_horizon: int | None = None,
    inference_delay: int = 0,
    in_flight: int = 1,
    fade: int | None = None,
    deadline_s: float = 0.3,
    instruction: str = "",
    reply_s: float = 2.0,
    token_file: Path | None = None,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Run a policy on a robot through the ROS graph: driver, guard, policy, recorder.

    Args:
        robot: robot name, e.g. g1 or panda.
        policy: checkpoint directory, or ws://HOST:PORT of a policy behind realign serve.
        driver: what plays the robot: the simulator, or the driver of a robot, real or emulated.
        network: interface or own address that leads to a Unitree robot, e.g. eth0, or address of
            a Franka control box; default: an emulated robot on the loopback.
        port: serial port of a robot, e.g. /dev/ttyACM0; default: an emulated one.
        dds_domain: DDS domain of a real Unitree robot.
        engine: simulator of the virtual robot; all but mujoco run in an interpreter of their own,
            e.g. the one that REALIGN_SAPIEN_PYTHON names.
        lockstep: the simulator waits for each command; reproducible for a seed.
        duration_s: length in s; default: all goals, the policy's motion, or 10 s.
        record: bag directory to write.
        record_images: how images of the policy's cameras get into the bag: raw, compressed (JPEG),
            lossless (PNG), or none.
        seed: seed of start pose, goals and policy.
        gap: dynamics gap of the virtual robot, e.g. payload, sticky, latency, hidden:7.
        faults: faults of the virtual robot, e.g. nan_state@1.0:0.2 (start:duration, s), or for an
            emulated Unitree robot silent@2:0.05,keys=L2+B@3, for an emulated SO-101
            drop=0.01,dead=3@2:0.05.
        goals: number of goals for a goal-conditioned policy.
        goal_period_s: time for each goal in s.
        domain_id: ROS domain; default: a private one.
        executor: what the robot does while the policy thinks: receding (waits), ensemble
            (averages plans), async or rtc (goes on with its plan; rtc has the next one continue
            it).
        action_horizon: actions from one request to the next; default: the policy's own.
        inference_delay: steps of the policy from an observation to the use of its answer, counted,
            so that a run with latency can be repeated.
        in_flight: requests of async and rtc that may be under way at a time; with an inference
            delay, more than one act on newer observations.
        fade: steps beyond the delay over which rtc lets go of the running plan; default: all of
            the plan.
        deadline_s: time in s that a request may take before the robot is left without commands,
            once its plan has run out.
        instruction: what a policy that reads instructions is told; also on policy/instruction.
        reply_s: time in s that a served policy has for an answer, before it counts as lost.
        token_file: file with the token of a served policy.
        json: file for the machine-readable result.
        overwrite: replace the JSON file (a bag is never replaced).
    """
    check_new(json, overwrite=overwrite)
    with local_policy(policy, token_file=token_file, reply_s=reply_s) as path:
        config = RunConfig(
            robot=robot,
            policy=path,
            driver=driver,
            network=network,
            port=port,
            dds_domain=dds_domain,
            engine=engine,
            lockstep=lockstep,
            duration_s=duration_s,
            record=record,
            record_images=record_images,
            seed=seed,
            gap=gap,
            faults=faults,
            goals=goals,
            goal_period_s=goal_period_s,
            domain_id=domain_id,
            executor=executor,
            action_horizon=action_horizon,
            inference_delay=inference_delay,
            in_flight=in_flight,
            fade=fade,
            deadline_s=deadline_s,
            instruction=instruction,
        )
        result = run(config, description=f"{robot} {'lockstep' if lockstep else 'real time'}")
    if json is not None:
        write_json(json, result)
    print(summary_line(result))
    if result["recorder_fault"]:
        raise FaultError(
            f"the run went on, but its recorder did not ({result['recorder_fault']}); rescue what "
            f"was recorded with `realign bag salvage {record} OUT`"
        )
    if result["stopped_by"]:
        raise FaultError(stop_sentence(result))


def stop_sentence(result: dict[str, Any]) -> str:
    """What the guard did to the robot, when, why, and what a person may try."""
    reason, failure = result["stopped_by"], result["policy_failure"]
    stops = [edge for edge in result["transitions"] if edge[2] in ("hold", "damp")]
    first = result["transitions"][0][0]
    since = next(edge[0] for edge in stops if edge[3] == reason)
    what = "stopped" if result["guard"]["state"] in ("hold", "damp") else "held"
    went_on = "" if what == "stopped" else ", and it went on"
    cause = f"{reason}, for {failure['text']}" if failure else reason
    advice = "docs/faults.md says what it means"
    if reason == "policy_silent" and not failure:
        advice = (
            "no new chunk came in time; if model or machine are slow, try --lockstep, --executor "
            "async or a machine that nobody else uses"
        )
    return f"the guard {what} the robot {(since - first) / 1e9:.2f} s after its sensors came" + (
        f"{went_on}: {cause}; {advice}, and --json FILE keeps `transitions`"
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
    images = ""
    if result["images"]:
        counts = result["images"].values()
        sent = sum(c["received"] + c["lost"] for c in counts)
        images = f", images {sum(c['written'] for c in counts)} of {sent} recorded"
    return (
        f"{result['policy']} on {result['robot']}: {how}, {result['duration_s']:.2f} s in "
        f"{result['wall_s']:.2f} s wall{base}{timing}, refused {result['guard']['refused']}, "
        f"clamped {result['guard']['clamped']}{images}"
    )
