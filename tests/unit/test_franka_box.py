"""The emulated control box without sockets: motions, supervision, recovery, the hand."""

import numpy as np
import pytest
from realign_franka_driver import layout
from realign_franka_driver.arm import Arm
from realign_franka_driver.control_box import LOST_IN_A_ROW, ControlBox
from realign_franka_driver.errors import Error
from realign_franka_driver.faults import parse_faults
from realign_franka_driver.gripper import Gripper
from realign_franka_driver.layout import (
    Controller,
    Generator,
    GripperCommand,
    GripperStatus,
    MoveStatus,
    RobotMode,
)
from realign_franka_driver.limits import BoxLimits
from realign_franka_driver.state import StateRecord

from policies.errors import InputError
from policies.robots import get_robot

FR3, PANDA = get_robot("fr3"), get_robot("panda")
DT = 0.001


def make_box(faults="", robot=FR3, **options):
    return ControlBox(Arm(robot, **options), faults=parse_faults(faults))


def command(**fields):
    record = np.zeros((), dtype=layout.ROBOT_COMMAND)
    for name, value in fields.items():
        record[name] = value
    return record


def begin(box, generator, controller=Controller.JOINT_IMPEDANCE):
    assert box.start(controller, generator) is MoveStatus.MOTION_STARTED
    return StateRecord(box).read().copy()


def smooth(t, duration=1.0):
    """From 0 to 1 without a jerk at either end, and its derivative."""
    s = np.clip(t / duration, 0.0, 1.0)
    value = s**4 * (35.0 - 84.0 * s + 70.0 * s**2 - 20.0 * s**3)
    rate = 140.0 * s**3 * (1.0 - s) ** 3 / duration
    return value, rate


def play(box, make, seconds):
    """Ticks with ``make(t)``; ends early when the motion does."""
    for k in range(1, round(seconds / DT) + 1):
        box.tick(make(k * DT))
        if box.ended is not None:
            return
    return


def finish(box, **fields):
    box.tick(command(motion_finished=1, **fields))
    assert box.ended is MoveStatus.SUCCESS


def test_idle_arm_stays_where_it_is():
    box = make_box()
    start = box.arm.qpos_rad
    for _ in range(500):
        box.tick(None)
    assert np.abs(box.arm.qpos_rad - start).max() < 1e-3
    assert box.mode is RobotMode.IDLE


def test_joint_position_motion_arrives():
    box = make_box()
    start = begin(box, Generator.JOINT_POSITION)["q_d"].astype(float)
    play(box, lambda t: command(q=start + 0.2 * smooth(t)[0]), 1.2)
    finish(box, q=start + 0.2)
    for _ in range(200):
        box.tick(None)
    assert box.reflexes == []
    assert box.arm.qpos_rad == pytest.approx(start + 0.2, abs=5e-3)


def test_joint_velocity_motion_arrives():
    box = make_box()
    start = begin(box, Generator.JOINT_VELOCITY)["q_d"].astype(float)
    play(box, lambda t: command(dq=np.full(7, 0.2 * smooth(t)[1])), 1.2)
    finish(box)
    assert box.reflexes == []
    assert box.arm.qpos_rad == pytest.approx(start + 0.2, abs=0.01)


@pytest.mark.parametrize("kind", [Generator.CARTESIAN_POSITION, Generator.CARTESIAN_VELOCITY])
def test_cartesian_motion_arrives(kind):
    box = make_box()
    start = begin(box, kind)["O_T_EE_d"].astype(float)

    def make(t):
        value, rate = smooth(t)
        pose = start.copy()
        pose[13] += 0.1 * value
        return command(O_T_EE=pose, O_dP_EE=[0.0, 0.1 * rate, 0.0, 0.0, 0.0, 0.0])

    play(box, make, 1.2)
    assert box.reflexes == []
    moved = StateRecord(box).read()["O_T_EE"] - start
    assert moved[13] == pytest.approx(0.1, abs=3e-3)
    assert np.abs(np.delete(moved, 13)).max() < 0.01


def test_elbow_moves_while_the_hand_stays():
    box = make_box()
    state = begin(box, Generator.CARTESIAN_POSITION)
    pose, elbow = state["O_T_EE_d"].astype(float), state["elbow_d"].astype(float)

    def make(t):
        turned = elbow + np.array([0.2 * smooth(t)[0], 0.0])
        return command(O_T_EE=pose, has_elbow=1, elbow=turned)

    play(box, make, 1.3)
    assert box.reflexes == []
    assert box.arm.qpos_rad[2] == pytest.approx(elbow[0] + 0.2, abs=5e-3)
    assert np.abs(StateRecord(box).read()["O_T_EE"] - pose).max() < 5e-3


def test_torques_move_the_arm_and_gravity_is_compensated():
    box = make_box()
    begin(box, Generator.NONE, Controller.EXTERNAL)
    start = box.arm.qpos_rad
    play(box, lambda _: command(), 0.5)
    assert np.abs(box.arm.qpos_rad - start).max() < 0.01  # it floats
    play(box, lambda t: command(tau=[min(5.0, 500.0 * t), 0, 0, 0, 0, 0, 0]), 0.3)
    assert box.arm.qpos_rad[0] > start[0] + 0.05
    assert box.reflexes == []


# Each breaks one limit by itself: start of the motion -> the command of time t.
BREAKS = {
    Error.JOINT_POSITION_MOTION_GENERATOR_START_POSE_INVALID: (
        Generator.JOINT_POSITION,
        lambda s, t: command(q=s["q_d"] + 0.1),
    ),
    Error.JOINT_MOTION_GENERATOR_VELOCITY_DISCONTINUITY: (
        Generator.JOINT_POSITION,
        lambda s, t: command(q=s["q_d"] + 5e-4 * (t > 0.1)),
    ),
    Error.JOINT_MOTION_GENERATOR_VELOCITY_LIMITS_VIOLATION: (
        Generator.JOINT_VELOCITY,
        lambda s, t: command(dq=[2.45 * smooth(t)[0], 0, 0, 0, 0, 0, 0]),
    ),
    Error.JOINT_MOTION_GENERATOR_ACCELERATION_DISCONTINUITY: (
        Generator.JOINT_VELOCITY,
        lambda s, t: command(dq=np.full(7, 0.02 * (t > 0.1))),
    ),
    Error.CARTESIAN_POSITION_MOTION_GENERATOR_START_POSE_INVALID: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(O_T_EE=s["O_T_EE_d"] + np.eye(16)[14]),
    ),
    Error.CARTESIAN_POSITION_MOTION_GENERATOR_INVALID_FRAME: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(O_T_EE=2.0 * s["O_T_EE_d"]),
    ),
    Error.CARTESIAN_MOTION_GENERATOR_VELOCITY_DISCONTINUITY: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(O_T_EE=s["O_T_EE_d"] + 5e-4 * (t > 0.1) * np.eye(16)[14]),
    ),
    Error.CARTESIAN_MOTION_GENERATOR_ACCELERATION_DISCONTINUITY: (
        Generator.CARTESIAN_VELOCITY,
        lambda s, t: command(O_dP_EE=[0, 0, 0.05 * (t > 0.1), 0, 0, 0]),
    ),
    Error.CARTESIAN_MOTION_GENERATOR_START_ELBOW_INVALID: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(
            O_T_EE=s["O_T_EE_d"], has_elbow=1, elbow=s["elbow_d"] + np.array([0.5, 0.0])
        ),
    ),
    Error.CARTESIAN_MOTION_GENERATOR_ELBOW_SIGN_INCONSISTENT: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(
            O_T_EE=s["O_T_EE_d"], has_elbow=1, elbow=s["elbow_d"] * [1.0, -1.0 if t > 0.1 else 1.0]
        ),
    ),
    Error.CARTESIAN_MOTION_GENERATOR_ELBOW_LIMIT_VIOLATION: (
        Generator.CARTESIAN_POSITION,
        lambda s, t: command(
            O_T_EE=s["O_T_EE_d"], has_elbow=1, elbow=s["elbow_d"] + [5e-4 * (t > 0.1), 0.0]
        ),
    ),
    Error.CONTROLLER_TORQUE_DISCONTINUITY: (
        Generator.NONE,
        lambda s, t: command(tau=[0, 0, 0, 0, 0, 0, 2.0 * (t > 0.1)]),
    ),
    Error.TAU_J_RANGE_VIOLATION: (
        Generator.NONE,
        lambda s, t: command(tau=[0, 0, 0, 0, 0, 0, 900.0 * t]),
    ),
    Error.JOINT_VELOCITY_VIOLATION: (
        Generator.NONE,
        lambda s, t: command(tau=[min(40.0, 500.0 * t), 0, 0, 0, 0, 0, 0]),
    ),
}


@pytest.mark.parametrize("error", BREAKS, ids=lambda error: error.name.lower())
def test_what_breaks_a_limit_ends_in_the_right_reflex(error):
    kind, make = BREAKS[error]
    box = make_box()
    external = kind is Generator.NONE
    state = begin(box, kind, Controller.EXTERNAL if external else Controller.JOINT_IMPEDANCE)
    play(box, lambda t: make(state, t), 2.0)
    assert box.reflexes == [error.name.lower()]
    assert box.ended is MoveStatus.REFLEX_ABORTED
    record = StateRecord(box).read()
    assert np.flatnonzero(record["errors"]).tolist() == [error]
    assert np.flatnonzero(record["reflex_reason"]).tolist() == [error]
    for _ in range(600):  # it brakes and stands
        box.tick(None)
    assert np.abs(box.arm.qvel_rad_s).max() < 0.02
    assert box.start(Controller.EXTERNAL, Generator.NONE) is MoveStatus.NOT_POSSIBLE_REJECTED
    assert box.recover()
    assert box.start(Controller.EXTERNAL, Generator.NONE) is MoveStatus.MOTION_STARTED


def test_speed_limit_falls_towards_the_stops():
    limits = BoxLimits.of(FR3)
    lowest, highest = limits.velocity_range(FR3.default_rad)
    assert highest[0] == FR3.velocity_limit_rad_s[0]
    near = np.array(FR3.upper_rad) - 0.01
    _, highest = limits.velocity_range(near)
    expected = np.sqrt(2.0 * limits.deceleration_rad_s2 * 0.01) - limits.offset_rad_s
    assert highest == pytest.approx(np.clip(expected, 0.0, None))
    lowest, _ = limits.velocity_range(np.array(FR3.lower_rad))
    assert (lowest == 0.0).all()


@pytest.mark.parametrize(("lost", "stops"), [(LOST_IN_A_ROW - 1, False), (LOST_IN_A_ROW, True)])
def test_twenty_lost_commands_in_a_row_stop_the_robot(lost, stops):
    box = make_box()
    begin(box, Generator.NONE, Controller.EXTERNAL)
    for _ in range(100):
        box.tick(command())
    assert box.success_rate == 1.0
    for _ in range(lost):
        box.tick(None)
    assert (box.reflexes == ["communication_constraints_violation"]) is stops
    if not stops:
        assert box.success_rate == pytest.approx(1.0 - lost / 100)
        box.tick(command())
        assert box.reflexes == []


def test_lost_commands_of_a_smooth_motion_are_bridged():
    box = make_box()
    start = begin(box, Generator.JOINT_POSITION)["q_d"].astype(float)
    rng = np.random.default_rng(0)
    play(
        box,
        lambda t: None if rng.random() < 0.02 else command(q=start + 0.3 * smooth(t, 2.0)[0]),
        2.2,
    )
    assert box.reflexes == []
    assert box.arm.qpos_rad == pytest.approx(start + 0.3, abs=0.01)


def test_user_stop_ends_the_motion_until_it_is_released():
    box = make_box("estop@0.1:0.2")
    begin(box, Generator.NONE, Controller.EXTERNAL)
    play(box, lambda _: command(), 1.0)
    assert box.ended is MoveStatus.EMERGENCY_ABORTED
    assert box.mode is RobotMode.USER_STOPPED
    assert not box.recover()
    for _ in range(250):
        box.tick(None)
    assert box.mode is RobotMode.IDLE


def test_losses_have_their_probability():
    box = make_box("loss:0.3")
    assert sum(box.loses() for _ in range(2000)) == pytest.approx(600, abs=80)


def test_moves_that_make_no_sense_are_refused():
    box = make_box()
    assert box.start(7, 0) is MoveStatus.INVALID_ARGUMENT_REJECTED
    assert box.start(0, 9) is MoveStatus.INVALID_ARGUMENT_REJECTED
    assert box.start(Controller.JOINT_IMPEDANCE, Generator.NONE) is (
        MoveStatus.INVALID_ARGUMENT_REJECTED
    )


def test_a_payload_is_not_compensated():
    """The gap shows: an arm that floats without it sinks with it."""
    box = make_box(robot=PANDA, gap="payload")
    begin(box, Generator.NONE, Controller.EXTERNAL)
    height = StateRecord(box).read()["O_T_EE"][14]
    play(box, lambda _: command(), 0.5)
    assert StateRecord(box).read()["O_T_EE"][14] < height - 0.02


def test_gap_with_a_delay_is_refused():
    with pytest.raises(InputError, match="without actuator delay"):
        Arm(PANDA, gap="latency")


def test_other_robots_are_refused():
    with pytest.raises(InputError, match="expected a Franka arm"):
        Arm(get_robot("so101"))


# ---- the hand ----------------------------------------------------------------------------------


def run_hand(hand, request, kind, seconds=3.0):
    hand.start(kind, request)
    for _ in range(round(seconds / DT)):
        hand.arm.follow(hand.arm.robot.default_rad, np.zeros(7))
        hand.tick()
        if hand.ended is not None:
            status, hand.ended = hand.ended, None
            return status
    return None


def move(width, speed=0.1):
    request = np.zeros((), dtype=layout.GRIPPER_MOVE)
    request["width"], request["speed"] = width, speed
    return request


def test_hand_moves_takes_its_time_and_refuses_what_it_cannot():
    hand = Gripper(Arm(FR3))
    assert run_hand(hand, move(0.02), GripperCommand.MOVE, 0.3) is None  # 6 cm at 10 cm/s
    hand.stop()
    assert hand.ended is GripperStatus.ABORTED
    hand.ended = None
    assert run_hand(hand, move(0.02), GripperCommand.MOVE) is GripperStatus.SUCCESS
    assert hand.read()["width"] == pytest.approx(0.02, abs=3e-3)
    assert run_hand(hand, move(0.2), GripperCommand.MOVE) is GripperStatus.FAIL
    assert run_hand(hand, None, GripperCommand.HOMING, 6.0) is GripperStatus.SUCCESS
    assert hand.read()["width"] == pytest.approx(0.08, abs=3e-3)


def test_grasp_of_nothing_is_unsuccessful():
    request = np.zeros((), dtype=layout.GRASP)
    request["width"], request["speed"], request["force"] = 0.01, 0.1, 20.0
    hand = Gripper(Arm(FR3))
    assert run_hand(hand, request, GripperCommand.GRASP) is GripperStatus.UNSUCCESSFUL
    assert not hand.read()["is_grasped"]
