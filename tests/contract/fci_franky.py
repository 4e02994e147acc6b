"""Motions of the unmodified franky-control, which plans and controls in C++.

    python fci_franky.py ADDRESS

Prints one line of JSON. A program of its own: it cannot live beside pylibfranka.
"""

import contextlib
import json
import os
import sys

import franky
import numpy as np


def main():
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(25))
    robot = franky.Robot(sys.argv[1], realtime_config=franky.RealtimeConfig.Ignore)
    robot.relative_dynamics_factor = 0.2
    out = {}

    def moved(name, action):
        q, pose = np.array(robot.state.q), np.array(robot.state.O_T_EE.translation)
        action()
        out[name] = {
            "joint": (np.array(robot.state.q) - q).tolist(),
            "hand_m": (np.array(robot.state.O_T_EE.translation) - pose).tolist(),
        }

    target = np.array(robot.state.q) + 0.1
    relative, half_a_second = franky.ReferenceType.Relative, franky.Duration(500)
    moved("joint", lambda: robot.move(franky.JointMotion(franky.JointState(target))))
    moved(
        "cartesian",
        lambda: robot.move(franky.CartesianMotion(franky.Affine([0.05, 0, 0]), relative)),
    )
    moved(
        "joint_velocity",
        lambda: robot.move(franky.JointVelocityMotion(np.full(7, -0.1), half_a_second)),
    )
    twist = franky.Twist([0.0, 0.0, 0.05])
    moved(
        "cartesian_velocity",
        lambda: robot.move(franky.CartesianVelocityMotion(twist, half_a_second)),
    )

    def track():
        start, ticks = np.array(robot.state.q), 0
        stiffness = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
        tracker = franky.JointImpedanceTracker(robot, stiffness=stiffness, period=0.02)
        with tracker:
            while tracker.tick() and ticks < 50:
                ticks += 1
                tracker.set_target(start + 0.1 * ticks / 50)
        out["ticks"] = ticks

    moved("tracker", track)
    out["recovered"] = robot.recover_from_errors()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
