"""One test for each row of the fault table, of the same name; the virtual robot, without ROS."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import ActionChunk
from policies.robots import G1, GO2, PANDA
from policies.runtime.failure import Failure, failure_of
from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.bags.writer import BagWriter
from sim2real.sim.virtual_robot import VirtualRobot
from sim2real.testing.link import LinkFaults
from sim2real.testing.loop import GuardedLoop, LoopConfig, run_guarded

MS = 1_000_000
NS = 1_000_000_000
UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])
GRAVITY = np.array([0.0, 0.0, 9.81])
CHECKPOINT = Path(__file__).parents[2] / "policies/checkpoints/panda_reach"


def sway(t, _):
    """All joints of a Panda swing slowly around the default pose."""
    return PANDA.default_rad + 0.2 * (1.0 - np.cos(1.5 * t))


def edges(run):
    return [(e.old.value, e.new.value, e.reason) for e in run.transitions]


def delay_after(run, fault_s, state):
    """Robot time from a fault to the change to ``state``, s."""
    return run.time_of(state) - fault_s


def advance(loop, seconds):
    """Run a loop for a while; returns the commands."""
    end = loop.now_ns + round(seconds * NS)
    commands = []
    while loop.now_ns < end:
        commands.append(loop.step())
    return commands


def active_guard(robot=PANDA, **config):
    """A guard in ACTIVE at 10 s, and the time."""
    guard, now = Guard(robot, GuardConfig(**config)), 10 * NS
    guard.on_state(now, now, robot.default_rad, np.zeros(robot.n))
    if robot.floating_base:
        guard.on_base(now, UPRIGHT, np.zeros(3), GRAVITY)
    if config.get("operator_timeout_s"):
        guard.on_operator(now, pressed=False)
    assert guard.arm(now) is None
    assert guard.on_chunk(chunk_of(robot.default_rad, now), now) is None
    assert guard.state is State.ACTIVE
    return guard, now


def chunk_of(rows, stamp):
    return ActionChunk(stamp_ns=stamp, dt_s=0.02, positions_rad=np.atleast_2d(rows))


# ---- sensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("robot", "fault", "reason"),
    [
        (PANDA, "drop_state", Reason.STATE_SILENT),
        (GO2, "drop_state", Reason.STATE_SILENT),
        (GO2, "drop_imu", Reason.IMU_SILENT),
    ],
)
def test_sensor_drop(scripted, measured, robot, fault, reason):
    # The policy of this test goes on without sensors: its silence must not be what is noticed.
    config = GuardConfig(silence_periods=1000.0)
    config = LoopConfig(faults=f"{fault}@0.5:0.4", duration_s=2.0, guard=config)
    run = run_guarded(scripted(robot), robot, config)
    assert [edge[1:] for edge in edges(run)[-2:]] == [("hold", reason), ("damp", reason)]
    assert np.isfinite(run.command_rad[-1]).all() == (robot.stop == "brake")
    measured(delay_after(run, 0.5, State.HOLD))


def test_sensor_frozen(scripted, measured):
    config = LoopConfig(faults="freeze_state@0.5", duration_s=2.0)
    run = run_guarded(scripted(PANDA, sway), PANDA, config)
    assert edges(run)[-2:] == [
        ("active", "hold", Reason.STATE_FROZEN),
        ("hold", "damp", Reason.STATE_FROZEN),
    ]
    measured(delay_after(run, 0.5, State.HOLD))


@pytest.mark.parametrize("robot", [PANDA, GO2])
def test_sensor_non_finite(scripted, measured, robot):
    config = LoopConfig(faults="nan_state@0.5:0.1", duration_s=2.0)
    run = run_guarded(scripted(robot), robot, config)
    assert run.stopped_by is Reason.STATE_NON_FINITE
    assert run.state is State.DAMP
    measured(delay_after(run, 0.5, State.HOLD))
    guard, now = active_guard(GO2)
    for k in range(1, 8):
        guard.on_state(now + k * 10 * MS, now + k * 10 * MS, GO2.default_rad, np.zeros(12))
        guard.on_base(now + k * 10 * MS, np.full(4, np.nan), np.zeros(3))
        guard.on_chunk(chunk_of(GO2.default_rad, now + k * 10 * MS), now + k * 10 * MS)
        guard.tick(now + k * 10 * MS)
    assert guard.transitions[-1].reason is Reason.IMU_SILENT


def test_wrong_units():
    tilted = np.array([np.cos(0.4), np.sin(0.4), 0.0, 0.0])
    force = np.array([0.0, np.sin(0.8), np.cos(0.8)]) * 9.81
    cases = {
        "degrees": (np.rad2deg(G1.default_rad + 0.1), UPRIGHT, GRAVITY, "check units"),
        "swapped quaternion": (G1.default_rad, np.roll(UPRIGHT, 1), GRAVITY, "x y z w"),
        "no unit quaternion": (G1.default_rad, 2.0 * UPRIGHT, GRAVITY, "unit quaternion"),
        "in units of g": (G1.default_rad, UPRIGHT, GRAVITY / 9.81, "m/s"),
        "wrong sign": (G1.default_rad, UPRIGHT, -GRAVITY, "sign"),
        "not rotated": (G1.default_rad, tilted, GRAVITY, "frame"),
    }
    for what, (qpos, quat, accel, word) in cases.items():
        guard = Guard(G1)
        guard.on_base(NS, quat, np.zeros(3), accel)
        guard.on_state(NS, NS, qpos, np.zeros(G1.n))
        assert guard.state is State.UNCONFIGURED, what
        assert guard.arm(NS) is Reason.IMPLAUSIBLE, what
        assert word in guard.implausible, what
    for quat, accel in ((UPRIGHT, GRAVITY), (tilted, force), (UPRIGHT, None)):
        guard = Guard(G1)
        guard.on_state(NS, NS, G1.default_rad, np.zeros(G1.n))
        guard.on_base(NS, quat, np.zeros(3), accel)
        assert guard.state is State.INACTIVE, guard.implausible


def test_rate_mismatch(scripted):
    guard, now = active_guard()
    for k in range(1, 301):  # stamps pass at half the pace of time
        guard.on_state(now + k * 5 * MS, now + k * 10 * MS, PANDA.default_rad, np.zeros(7))
    assert guard.warnings[Reason.RATE_MISMATCH] == 2
    guard.reset(now + 3 * NS)
    assert guard.arm(now + 3 * NS) is Reason.RATE_MISMATCH
    run = run_guarded(scripted(PANDA), PANDA, LoopConfig(duration_s=3.0))
    assert run.completed
    assert run.warnings == {}


def test_clock_jump(scripted, measured):
    for jump_s in (-0.9, 3.0):
        loop = GuardedLoop(scripted(PANDA, sway), PANDA, LoopConfig(duration_s=3.0))
        advance(loop, 1.0)
        loop.sim.steps += round(jump_s * 1e9 / loop.sim.dt_ns)
        before = loop.now_ns
        loop.step()
        run = loop.result()
        assert edges(run)[-2:] == [
            ("active", "hold", Reason.CLOCK_JUMP),
            ("hold", "active", Reason.FIRST_CHUNK),  # the policy has seen the new time already
        ]
        measured((loop.now_ns - before) / NS - 0.01)
        advance(loop, 1.0)
        assert loop.guard.state is State.ACTIVE


# ---- chunks ------------------------------------------------------------------------------------


def test_stale_observation():
    guard, now = active_guard()
    for age_ms, reason in (
        (400, Reason.STALE_CHUNK),
        (20, Reason.OLD_CHUNK),
        (-100, Reason.FUTURE_CHUNK),
    ):
        assert guard.on_chunk(chunk_of(PANDA.default_rad, now - age_ms * MS), now) is reason
    assert guard.answered_ns == now


def test_bad_action(scripted):
    def garbage(bad):
        return lambda t, _: bad if t > 0.5 else PANDA.default_rad

    for bad, reason in (
        (np.full(7, np.nan), Reason.NON_FINITE),
        (np.full(7, -np.inf), Reason.NON_FINITE),
        (np.full(7, 1e3), Reason.OUT_OF_LIMITS),
        (np.zeros(6), Reason.BAD_SHAPE),
        (np.zeros((2000, 7)), Reason.BAD_SHAPE),
    ):
        run = run_guarded(scripted(PANDA, garbage(bad)), PANDA, LoopConfig(duration_s=1.0))
        assert run.refused[reason] == 3
        assert run.stopped_by is Reason.REPEATED_REFUSALS
        assert run.state is State.DAMP
        sent = run.command_rad[np.isfinite(run.command_rad).all(axis=1)]
        assert np.abs(sent - PANDA.default_rad).max() < 0.05


def test_action_out_of_limits(scripted):
    def push(t, _):
        return PANDA.upper_rad + 0.3

    run = run_guarded(scripted(PANDA, push), PANDA, LoopConfig(duration_s=4.0))
    sent = run.command_rad[1:]
    assert run.clamped > 0
    assert run.warnings[Reason.CLAMPED_LONG] == 1
    assert (sent <= PANDA.upper_rad).all()
    speed = np.abs(np.diff(sent, axis=0)) / 0.01
    assert (speed <= PANDA.velocity_limit_rad_s * (1 + 1e-6)).all()
    guard, now = active_guard()
    assert guard.on_chunk(chunk_of(np.full(7, 12.0), now), now) is Reason.OUT_OF_LIMITS


def test_torque_of_a_set_point_stays_below_what_the_motor_has(scripted):
    run = run_guarded(scripted(G1, lambda t, _: G1.upper_rad), G1, LoopConfig(duration_s=0.4))
    torque = G1.kp_nm_rad * (run.command_rad - run.qpos_rad)
    at_rest = np.isfinite(torque).all(axis=1).argmax()  # first command: joints do not move yet
    assert (np.abs(torque[at_rest]) <= G1.effort_limit_nm * (1 + 1e-9)).all()


def test_first_action_jump(scripted):
    goal = PANDA.default_rad + 0.5
    run = run_guarded(scripted(PANDA, lambda t, _: goal), PANDA, LoopConfig(duration_s=3.0))
    sent = run.command_rad[1:]
    assert np.abs(sent[0] - run.qpos_rad[1]).max() < 0.01
    assert np.abs(np.diff(sent, axis=0)).max() / 0.01 < 0.7  # limits alone allow 2.2 rad/s
    assert np.abs(sent[-1] - goal).max() < 1e-3


def test_a_hold_that_ends_goes_on_at_the_speed_that_is_left(scripted):
    def fast(t, _):
        return PANDA.default_rad + 0.5 * np.sin(2.0 * t)

    config = LoopConfig(duration_s=3.0, action=LinkFaults(outages=((0.6, 0.12), (1.4, 0.2))))
    run = run_guarded(scripted(PANDA, fast), PANDA, config)
    assert [edge[1] for edge in edges(run)].count("hold") == 2
    sent = run.command_rad[np.isfinite(run.command_rad).all(axis=1)]
    acceleration = np.diff(sent, n=2, axis=0) / 0.01**2
    assert (np.abs(acceleration) <= PANDA.array("acceleration_limit_rad_s2") * 1.01).all()


@pytest.mark.parametrize("robot", [PANDA, G1])
def test_stop_of_a_robot_at_rest_keeps_it_where_it_is(robot):
    guard = Guard(robot)
    pose = robot.default_rad + 0.02
    guard.on_state(NS, NS, pose, np.zeros(robot.n))
    guard.stop(Reason.ESTOP, NS)
    command = guard.tick(NS + MS)
    assert command.positions_rad is None or np.allclose(command.positions_rad, pose)
    blind = Guard(robot)
    blind.stop(Reason.ESTOP, NS)
    assert blind.tick(NS + MS).positions_rad is None  # where it stands is not known: damping


# ---- policy and processes ----------------------------------------------------------------------


def test_policy_stall(scripted, measured):
    for outage_s, state in ((0.3, State.ACTIVE), (1.0, State.DAMP)):
        config = LoopConfig(duration_s=2.5, action=LinkFaults(outages=((1.0, outage_s),)))
        run = run_guarded(scripted(PANDA, sway), PANDA, config)
        assert ("active", "hold", Reason.POLICY_SILENT) in edges(run)
        assert run.state is state
        # The last chunk that got through answers the observation a period before the outage.
        measured(delay_after(run, 1.0, State.HOLD) + 0.02)


def test_inference_error(scripted, measured):
    def out_of_memory(t, _):
        if t >= 1.0:
            raise MemoryError("CUDA out of memory")
        return PANDA.default_rad

    run = run_guarded(scripted(PANDA, out_of_memory), PANDA, LoopConfig(duration_s=2.5))
    assert run.policy_error == "MemoryError: CUDA out of memory"
    assert run.stopped_by is Reason.POLICY_SILENT
    assert run.state is State.DAMP
    measured(delay_after(run, 1.0, State.HOLD) + 0.02)
    assert failure_of(MemoryError("x")).kind is Failure.OUT_OF_MEMORY
    assert failure_of(RuntimeError("CUDA error: device-side assert")).kind is Failure.MODEL_ERROR


def test_policy_killed(scripted, measured):
    run = run_guarded(
        scripted(PANDA), PANDA, LoopConfig(duration_s=3.0, action=LinkFaults(outages=((1.0, 9.0),)))
    )
    assert [edge[1] for edge in edges(run)][-2:] == ["hold", "damp"]
    assert run.time_of(State.DAMP) - run.time_of(State.HOLD) == pytest.approx(0.5, abs=0.02)
    measured(delay_after(run, 1.0, State.HOLD) + 0.02)


@pytest.mark.parametrize("robot", [PANDA, GO2])
def test_guard_killed(robot):
    sim = VirtualRobot(robot, rate_hz=100.0)
    for _ in range(20):
        sim.step(robot.default_rad + 0.05)
    for _ in range(200):  # None: what the driver commands when the guard has been silent
        sim.step(None)
    assert np.abs(sim.read().qvel_rad_s).max() < 0.5


def test_driver_disconnect(measured):
    guard, now = active_guard()
    later = now + 60 * MS
    guard.on_chunk(chunk_of(PANDA.default_rad, now), later)
    guard.tick(later)
    assert guard.transitions[-1].reason is Reason.STATE_SILENT
    measured((later - now) / NS)
    guard = Guard(PANDA)
    guard.on_state(now, now, PANDA.default_rad, np.zeros(7))
    assert guard.arm(now) is None
    guard.tick(now + 1100 * MS)
    assert guard.transitions[-1].reason is Reason.DISCONNECTED
    back = now + 5 * NS
    assert guard.arm(back) is Reason.STATE_SILENT
    guard.on_state(back, back, PANDA.default_rad, np.zeros(7))
    assert guard.state is State.INACTIVE  # it takes an operator to go on
    assert guard.on_chunk(chunk_of(PANDA.default_rad, back), back) is Reason.NOT_ARMED


def test_second_commander():
    guard, now = active_guard()
    guard.stop(Reason.SECOND_COMMANDER, now)
    assert guard.state is State.DAMP
    assert guard.arm(now) is Reason.NOT_ARMED


# ---- messages ----------------------------------------------------------------------------------


def test_late_messages(scripted):
    faults = LinkFaults(drop=0.05, duplicate=0.2, delay_s=0.005, jitter_s=0.035)
    config = LoopConfig(duration_s=4.0, action=faults, observation=LinkFaults(duplicate=0.2))
    run = run_guarded(scripted(PANDA, sway), PANDA, config)
    assert run.refused[Reason.OLD_CHUNK] > 0
    assert run.state in (State.ACTIVE, State.HOLD)  # late is no reason to stop for good
    assert Reason.REPEATED_REFUSALS not in {e.reason for e in run.transitions}
    guard, now = active_guard()
    guard.on_state(now + 20 * MS, now + 20 * MS, PANDA.default_rad + 0.1, np.zeros(7))
    guard.on_state(now + 10 * MS, now + 21 * MS, PANDA.default_rad - 0.1, np.zeros(7))
    assert guard.newest_stamp_ns == now + 20 * MS
    assert guard.warnings == {Reason.LATE_STATE: 1}


def test_network_partition(scripted, measured):
    faults = LinkFaults(outages=((1.0, 0.3),), delay_s=0.01)
    config = LoopConfig(duration_s=3.0, action=faults, observation=faults)
    run = run_guarded(scripted(PANDA, sway), PANDA, config)
    assert ("active", "hold", Reason.POLICY_SILENT) in edges(run)
    assert run.state is State.ACTIVE
    measured(delay_after(run, 1.0, State.HOLD))
    guard, now = active_guard()
    late = [guard.on_chunk(chunk_of(PANDA.default_rad, now - k * 200 * MS), now) for k in (3, 2, 1)]
    assert late == [Reason.STALE_CHUNK, Reason.STALE_CHUNK, Reason.OLD_CHUNK]
    assert guard.state is State.ACTIVE


def test_hostile_peer():
    class Message:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    stamp = Message(sec=1, nanosec=0)
    names = wire.NameMap(PANDA.joint_names, "action_chunk")
    point = Message(positions=[0.0] * 7, time_from_start=Message(sec=0, nanosec=0))
    good = {
        "header": Message(stamp=stamp),
        "joint_names": list(PANDA.joint_names),
        "points": [point],
    }
    assert wire.trajectory_to_chunk(Message(**good), names).positions_rad.shape == (1, 7)
    for change in (
        {"points": []},
        {"points": [point] * 100_000},
        {"points": [point, point]},
        {"joint_names": ["x"] * 7},
        {"joint_names": list(PANDA.joint_names)[:6]},
        {"points": [Message(positions=[0.0] * 9, time_from_start=stamp)]},
    ):
        with pytest.raises(InputError):
            wire.trajectory_to_chunk(Message(**(good | change)), names)


# ---- robot and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("robot", [PANDA, G1])
def test_operator_stop(robot):
    for prepare in ("unconfigured", "inactive", "ready", "active", "hold"):
        guard = Guard(robot)
        if prepare != "unconfigured":
            guard.on_state(NS, NS, robot.default_rad, np.zeros(robot.n))
            guard.on_base(NS, UPRIGHT, np.zeros(3), GRAVITY)
        if prepare in ("ready", "active", "hold"):
            guard.arm(NS)
        if prepare in ("active", "hold"):
            guard.on_chunk(chunk_of(robot.default_rad, NS), NS)
        if prepare == "hold":
            guard.tick(NS + 200 * MS)
        assert guard.state.value == prepare
        guard.on_operator(NS, pressed=True)
        assert guard.state is State.DAMP
        assert guard.arm(NS) is Reason.NOT_ARMED
    guard, now = active_guard(robot, operator_timeout_s=1.0, silence_periods=1e6)
    for k in range(1, 130):  # everything but the operator's switch goes on
        now += 10 * MS
        guard.on_state(now, now, robot.default_rad + 1e-9 * k, np.zeros(robot.n))
        guard.on_base(now, UPRIGHT, np.zeros(3))
        guard.tick(now)
    assert guard.transitions[-1].reason is Reason.OPERATOR_LOST
    assert (guard.transitions[-1].stamp_ns - 10 * NS) / NS == pytest.approx(1.0, abs=0.02)
    guard.reset(now)
    assert guard.arm(now) is Reason.OPERATOR_LOST


def test_body_limits():
    half = 0.55
    lying = np.array([np.cos(half), np.sin(half), 0.0, 0.0])
    causes = {
        Reason.TILT: lambda g, t: g.on_base(t, lying, np.zeros(3)),
        Reason.BASE_RATE: lambda g, t: g.on_base(t, UPRIGHT, np.array([0.0, 0.0, 20.0])),
        Reason.OVERSPEED: lambda g, t: g.on_state(
            t, t, G1.default_rad, 1.3 * G1.velocity_limit_rad_s
        ),
        Reason.OVERHEATED: lambda g, t: g.on_health(t, winding_c=121.0),
        Reason.BATTERY_LOW: lambda g, t: g.on_health(t, charge=0.19),
    }
    for reason, cause in causes.items():
        guard, now = active_guard(G1)
        cause(guard, now)
        assert guard.state is State.DAMP
        assert guard.transitions[-1].reason is reason
        assert guard.tick(now + MS).positions_rad is None
    guard, now = active_guard(G1)
    guard.on_health(now, case_c=86.0)
    assert guard.state is State.DAMP
    guard, now = active_guard(G1)
    guard.on_health(now, charge=float("nan"), winding_c=119.0, case_c=84.0)
    assert guard.state is State.ACTIVE
    guard.stop(Reason.ESTOP, now)
    guard.reset(now)
    guard.on_health(now, charge=0.1)
    assert guard.arm(now) is Reason.BATTERY_LOW


def test_overrun():
    for gap_ms, warned, state in ((5, 0, State.ACTIVE), (25, 1, State.ACTIVE), (60, 1, State.HOLD)):
        guard, now = active_guard(tick_period_s=0.005, state_max_age_s=1.0, silence_periods=100.0)
        guard.tick(now)
        guard.tick(now + gap_ms * MS)
        assert guard.warnings.get(Reason.OVERRUN, 0) == warned
        assert guard.state is state
    assert guard.transitions[-1].reason is Reason.OVERRUN
    late = now + 60 * MS
    guard.on_state(late, late, PANDA.default_rad, np.zeros(7))
    assert guard.on_chunk(chunk_of(PANDA.default_rad, late), late) is None
    assert guard.state is State.ACTIVE


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


def test_bad_checkpoint(checkpoint):
    files = sorted(path for path in checkpoint.iterdir() if path.suffix in (".onnx", ".json"))
    assert len(files) >= 2
    rng = np.random.default_rng(0)
    for path in files:
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 20):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with pytest.raises(InputError) as raised:
                load_policy(checkpoint, PANDA)
            assert "\n" not in str(raised.value)
        path.write_bytes(whole)
    assert load_policy(checkpoint, PANDA).spec.robot == "panda"


def test_wrong_robot(checkpoint, scripted):
    with pytest.raises(InputError, match="panda"):
        load_policy(checkpoint, G1)
    other = dataclasses.replace(scripted(PANDA).spec, robot_fingerprint="0" * 16)
    policy = scripted(PANDA)
    policy.spec = other
    with pytest.raises(InputError, match="made for"):
        GuardedLoop(policy, PANDA)
    shuffled = list(reversed(PANDA.joint_names))
    index = wire.NameMap(PANDA.joint_names, "joint_states").index(shuffled)
    assert [shuffled[i] for i in index] == list(PANDA.joint_names)
    for names in (shuffled[:6], [shuffled[0]] * 7):
        with pytest.raises(InputError):
            wire.NameMap(PANDA.joint_names, "joint_states").index(names)


def test_recorder_fault(tmp_path):
    """The file refuses to grow: what was written whole stays readable."""
    writer = BagWriter(tmp_path / "bag", provenance={"robot": "panda"})
    writer.add_topic("/blob", "std_msgs/msg/String")
    body = bytes(range(65, 91)) * 4000
    message = b"\x00\x01\x00\x00" + (len(body) + 1).to_bytes(4, "little") + body + b"\x00"
    for k in range(6):
        writer.write("/blob", message, k)
    whole = (tmp_path / "bag/bag_0.mcap").stat().st_size
    assert whole > 0
    report = salvage(tmp_path / "bag", tmp_path / "out")
    assert report.messages >= 3
    writer.close()


def test_damaged_file(tmp_path):
    with BagWriter(tmp_path / "bag", provenance={"robot": "panda"}) as writer:
        writer.add_topic("/n", "std_msgs/msg/Int32")
        for k in range(50):
            writer.write("/n", b"\x00\x01\x00\x00" + k.to_bytes(4, "little"), k)
    path = tmp_path / "bag/bag_0.mcap"
    whole = path.read_bytes()
    assert read_bag(tmp_path / "bag").info.message_count == 50
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError) as raised:
            read_bag(tmp_path / "bag")
        assert "\n" not in str(raised.value)
