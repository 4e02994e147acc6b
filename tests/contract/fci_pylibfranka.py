"""Every motion of FCI with the unmodified pylibfranka, as its own examples use it.

    python fci_pylibfranka.py ADDRESS SCENARIO

Prints one line of JSON. A program of its own: pylibfranka holds the interpreter.
"""

import contextlib
import json
import math
import os
import sys

import numpy as np
import pylibfranka

IMPEDANCE = pylibfranka.ControllerMode.JointImpedance
STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
DAMPING = np.array([50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0])


def smooth(t, duration=1.0):
    s = min(max(t / duration, 0.0), 1.0)
    return s**4 * (35.0 - 84.0 * s + 70.0 * s**2 - 20.0 * s**3)


def rate(t, duration=1.0):
    s = min(max(t / duration, 0.0), 1.0)
    return 140.0 * s**3 * (1.0 - s) ** 3 / duration


def play(control, make, duration=1.2):
    """Answer every state with ``make(state, start, t)``; the last command ends the motion."""
    t, cycles, start = 0.0, 0, None
    while True:
        state, passed = control.readOnce()
        t, cycles = t + passed.to_sec(), cycles + 1
        start = start or state
        command = make(state, start, t)
        command.motion_finished = t >= duration
        control.writeOnce(command)
        if t >= duration:
            return cycles


def torques(robot, model, bad=None):
    def make(state, start, t):
        target = np.array(start.q) + 0.1 * smooth(t)
        wanted = STIFFNESS * (target - state.q) - DAMPING * np.array(state.dq)
        wanted += np.array(model.coriolis(state))
        last = np.array(state.tau_J_d)
        limited = last + np.clip(wanted - last, -0.99, 0.99)
        return pylibfranka.Torques(bad(limited) if bad and t > 0.2 else limited)

    return play(robot.start_torque_control(), make)


def motions(robot, model):
    out = {}

    def position(state, start, t):
        return pylibfranka.JointPositions(np.array(start.q_d) + 0.1 * smooth(t))

    def velocity(state, start, t):
        return pylibfranka.JointVelocities(np.full(7, -0.1 * rate(t)))

    def pose(state, start, t):
        target = np.array(start.O_T_EE_d)
        target[13] += 0.05 * smooth(t)
        return pylibfranka.CartesianPose(target)

    def twist(state, start, t):
        return pylibfranka.CartesianVelocities([0.0, -0.05 * rate(t), 0.0, 0.0, 0.0, 0.0])

    kinds = {
        "joint_position": (robot.start_joint_position_control, position),
        "joint_velocity": (robot.start_joint_velocity_control, velocity),
        "cartesian_pose": (robot.start_cartesian_pose_control, pose),
        "cartesian_velocity": (robot.start_cartesian_velocity_control, twist),
    }
    for name, (start, make) in kinds.items():
        before = robot.read_once()
        cycles = play(start(IMPEDANCE), make)
        after = robot.read_once()
        moved = np.array(after.q) - before.q, np.array(after.O_T_EE) - before.O_T_EE
        out[name] = {"cycles": cycles, "joint": moved[0].tolist(), "y_m": moved[1][13]}
    before = robot.read_once()
    cycles = torques(robot, model)
    moved = (np.array(robot.read_once().q) - before.q).tolist()
    out["torque"] = {"cycles": cycles, "joint": moved}
    return out


def errors(robot, model):
    """What a client is told of each mistake, and of the next motion."""
    out = {}
    for name, bad in (("jump", lambda tau: tau + 5.0), ("nan", lambda tau: tau * math.nan)):
        try:
            torques(robot, model, bad)
        except (RuntimeError, ValueError) as error:
            out[name] = [type(error).__name__, str(error)]
        state = robot.read_once()
        out[f"{name}_mode"] = [state.robot_mode.name, str(state.current_errors)]
        try:
            torques(robot, model)
            out[f"{name}_next"] = "moved"
        except RuntimeError as error:
            out[f"{name}_next"] = str(error)
        robot.automatic_error_recovery()
        out[f"{name}_recovered"] = newest(robot).robot_mode.name
    return out


def fault(robot, model):
    """A torque motion, something that the robot does to it, and what a recovery does."""
    out = {"end": "moved"}
    try:
        for _ in range(4):
            torques(robot, model)
    except RuntimeError as error:
        out["end"] = str(error)
    with contextlib.suppress(RuntimeError):
        state = robot.read_once()
        out["mode"], out["errors"] = state.robot_mode.name, str(state.current_errors)
    try:
        robot.automatic_error_recovery()
        out["recovered"] = newest(robot).robot_mode.name
    except RuntimeError as error:
        out["recovered"] = str(error)
    return out


def newest(robot):
    """A state that is not from before what was asked for last."""
    for _ in range(20):
        state = robot.read_once()
    return state


def settings(robot, model):
    rest = robot.read_once()
    robot.set_collision_behavior([20.0] * 7, [20.0] * 7, [20.0] * 6, [20.0] * 6)
    robot.set_joint_impedance([3000.0] * 7)
    robot.set_cartesian_impedance([2000.0] * 3 + [100.0] * 3)
    robot.set_load(0.3, [0.0, 0.0, 0.1], [0.001, 0, 0, 0, 0.001, 0, 0, 0, 0.001])
    before = newest(robot)
    tool = np.eye(4)
    tool[2, 3] = 0.1
    robot.set_EE(tool.T.ravel().tolist())
    after = newest(robot)
    return {
        "tool_moved_m": float(np.linalg.norm(np.subtract(after.O_T_EE, before.O_T_EE))),
        "m_load": after.m_load,
        "gravity": list(model.gravity(rest)),
        "tau_J": list(rest.tau_J),
        "mass": np.array(model.mass(before)).reshape(7, 7).diagonal().tolist(),
        "coriolis_at_rest": list(model.coriolis(before)),
        "jacobian": len(model.zero_jacobian(before)),
    }


def gripper(address):
    hand = pylibfranka.Gripper(address)
    out = {"version": hand.server_version(), "open": hand.read_once().max_width}
    out["homed"], out["moved"] = hand.homing(), hand.move(0.03, 0.1)
    out["width"] = hand.read_once().width
    out["grasped"], out["stopped"] = hand.grasp(0.0, 0.1, 20.0), hand.stop()
    return out


def main():
    address, scenario = sys.argv[1:]
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(25))
    if scenario == "connect":
        try:
            pylibfranka.Robot(address, pylibfranka.RealtimeConfig.kIgnore)
            result = {"error": ""}
        except (pylibfranka.FrankaException, RuntimeError) as error:
            result = {"error": str(error), "type": type(error).__name__}
    elif scenario == "gripper":
        result = gripper(address)
    else:
        robot = pylibfranka.Robot(address, pylibfranka.RealtimeConfig.kIgnore)
        result = globals()[scenario](robot, robot.load_model())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
