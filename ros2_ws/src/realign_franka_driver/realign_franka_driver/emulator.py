"""The robot's side of the Franka Control Interface, around the virtual robot.

States at 1 kHz, motion commands, supervision, errors and their recovery, a model, the hand:

    python -m realign_franka_driver.emulator --robot panda --address 127.0.0.1

It serves any client of libfranka 0.21, ours or another.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from policies.robots import get_robot
from realign_driver.emulation import Pace, add_robot_options, play, start_pose_rad
from realign_franka_driver import layout
from realign_franka_driver.arm import Arm
from realign_franka_driver.control_box import ControlBox
from realign_franka_driver.faults import BoxFault, parse_faults
from realign_franka_driver.gripper import Gripper
from realign_franka_driver.robot_model import robot_model
from realign_franka_driver.server import GripperServer, RobotServer

LOOPBACK = "127.0.0.1"
PERIOD_NS = 1_000_000
_GRIPPER_TICKS = 20
_PATIENCE = 2
_TRACE = np.dtype([("t_ns", "<i8"), ("mode", "u1"), ("answered", "?"), ("speed_rad_s", "<f4")])


class Emulator:
    """A control box and a hand, stepped on an absolute grid.

    Args:
        box: the control box.
        address: own address to serve.
        faults: what goes wrong; a ``version`` among them is the one that it claims.
        keep_trace: remember what each period brought.
    """

    def __init__(
        self,
        box: ControlBox,
        *,
        address: str = LOOPBACK,
        faults: tuple[BoxFault, ...] = (),
        keep_trace: bool = False,
    ) -> None:
        self.box = box
        versions = [int(f.value) for f in faults if f.kind == "version"]
        version = versions[0] if versions else layout.ROBOT_VERSION
        self.robot = RobotServer(box, robot_model(box.arm.robot), address, version)
        self.gripper = GripperServer(Gripper(box.arm), address)
        self.trace: list[tuple[int, int, bool, float]] | None = [] if keep_trace else None
        self.physics_s = 0.0
        self._pace = Pace(PERIOD_NS, _PATIENCE)
        self.running = True

    def stop(self, *_: Any) -> None:
        """End the loop; also a signal handler."""
        self.running = False

    def run(self) -> None:
        """Step until told to stop."""
        self._pace.start()
        while self.running:
            self.period()
            self._pace.wait(time.monotonic_ns())
        self.robot.link.close()
        self.gripper.link.close()

    def period(self) -> None:
        """One period: what was asked, what was commanded, physics, the new state."""
        box = self.box
        command = self.robot.command(box.ticks)
        self.robot.serve()
        start = time.perf_counter()
        box.tick(command)
        self.physics_s += time.perf_counter() - start
        self.gripper.gripper.tick()
        if box.ticks % _GRIPPER_TICKS == 0 or self.gripper.gripper.ended is not None:
            self.gripper.serve()
        self.robot.publish()
        if self.trace is not None:
            speed = float(np.abs(box.arm.qvel_rad_s).max())
            answered = box.moving and box.was_answered
            self.trace.append((time.monotonic_ns(), int(box.mode), answered, speed))

    def summary(self) -> dict[str, Any]:
        """What the robot saw."""
        box = self.box
        return {
            "ticks": box.ticks,
            "moved_s": box.moving_ticks * layout.PERIOD_S,
            "moving_ticks": box.moving_ticks,
            "answered": box.answered,
            "reflexes": box.reflexes,
            "malformed": self.robot.malformed,
            "mujoco_s": self.physics_s,
            "lost_s": self._pace.lost_s,
        }

    def columns(self) -> dict[str, Any]:
        """What each period brought."""
        rows = np.array(self.trace, dtype=_TRACE)
        return {name: rows[name] for name in rows.dtype.names}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="emulator", description=__doc__)
    parser.add_argument("--robot", required=True, help="panda or fr3")
    parser.add_argument("--address", default=LOOPBACK, help="own address to serve")
    add_robot_options(parser, faults="reflex@2,silence@3:0.1,loss:0.05")
    return parser.parse_args()


def _emulator(given: argparse.Namespace) -> Emulator:
    robot = get_robot(given.robot)
    pose = start_pose_rad(given.policy, robot)
    faults = parse_faults(given.faults)
    arm = Arm(robot, gap=given.gap, seed=given.seed, start_pose_rad=pose)
    box = ControlBox(arm, faults=faults, seed=given.seed)
    keep = given.trace is not None
    return Emulator(box, address=given.address, faults=faults, keep_trace=keep)


def main() -> None:
    """Play the robot until SIGINT or SIGTERM."""
    given = _arguments()
    play(lambda: _emulator(given), given)


if __name__ == "__main__":
    main()
