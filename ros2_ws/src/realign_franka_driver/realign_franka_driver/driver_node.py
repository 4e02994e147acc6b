"""A Franka arm on ROS topics: ``joint_states`` and ``gripper_state`` out, ``joint_command`` in.

The arm is reached by a control process (:mod:`realign_franka_driver.control_process`), the hand by
another. When this node dies, the control process brings the arm to a stand; when the control
process dies, the robot does so by itself, and this node ends.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from policies.errors import InputError
from policies.interface import Float
from realign_driver.robot_driver import RobotDriver, drive
from realign_driver.robot_process import RobotProcess
from realign_franka_driver import channel
from realign_franka_driver.control_process import ControlConfig
from realign_franka_driver.core import Mode, Stop
from realign_franka_driver.voice import Voice

_POLL_S = 0.002
_HANGS_S = 2.0  # libfranka itself waits 1 s for a state
_LAST_S = 4.0
_ANSWER_S = 3.0
_HARMLESS = (Stop.NONE.value, Stop.FINISHED.value)


class DriverNode(RobotDriver):
    """Parameters to the processes of arm and hand, packets to messages and back."""

    def __init__(self) -> None:
        super().__init__("franka_driver")
        if self.robot.gripper is None or self.robot.n != channel.JOINTS:
            raise InputError(
                f"expected a Franka arm (panda or fr3), got {self.robot.name}; use another driver"
            )
        self.config = ControlConfig(
            robot=self.robot.name,
            network=self.value("network", ""),
            enforce_realtime=self.value("enforce_realtime", False),
            realtime_priority=self.realtime_priority and self.realtime_priority + 2,
        )
        if not self.config.network:
            raise InputError(
                "expected the control box's address in the parameter network, got none; "
                "give it, or start an emulator and give 127.0.0.1"
            )
        self._stop = ""
        self._hand_error = ""
        self._last: Any = np.zeros((), dtype=channel.STATE)
        self._voice = Voice(self, self.robot)
        self.create_subscription(Float64, "gripper_command", self._on_gripper, 10)
        for name in ("reset", "recover", "home_gripper"):
            self.create_service(Trigger, f"~/{name}", getattr(self, f"_{name}"))
        module = "realign_franka_driver."
        self.arm = RobotProcess(module + "control_process", self.config, hangs_s=_HANGS_S)
        self.hand = RobotProcess(module + "hand_process", self.config)

    # ---- the operator -------------------------------------------------------------------------

    def _on_gripper(self, msg: Float64) -> None:
        assert self.robot.gripper is not None
        if not np.isfinite(msg.data):
            self.get_logger().error("gripper width with NaN or Inf ignored")
            return
        width_m = float(np.clip(msg.data, 0.0, self.robot.gripper.max_width_m))
        self.hand.send(channel.hand_command(channel.MOVE_HAND, width_m))

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._ask(channel.RESET, response, "waiting for the guard's commands")

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._ask(channel.RECOVER, response, "recovered; waiting for the guard's commands")

    def _ask(self, kind: int, response: Trigger.Response, done: str) -> Trigger.Response:
        before, deadline = int(self._last["answers"]), time.monotonic() + _ANSWER_S
        self.arm.send(channel.command(kind))
        while int(self._last["answers"]) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        if int(self._last["answers"]) == before:
            response.success, response.message = False, "the control process does not answer"
            return response
        problem = self._last["answer"].decode(errors="replace")
        response.success, response.message = not problem, problem or done
        return response

    def _home_gripper(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.hand.send(channel.hand_command(channel.HOME_HAND))
        response.message = "the fingers move now" if response.success else "there is no gripper"
        return response

    # ---- the robot ----------------------------------------------------------------------------

    def run(self) -> None:
        """Pass on what the control process says, until the run is over or it ends.

        Raises:
            channel.Closed: the control process ended.
        """
        while self.goes_on:
            record = self.arm.newest(channel.STATE, wait_s=_POLL_S)
            self.take_command()
            if record is None:
                continue
            is_news = record["stamp_ns"] != self._last["stamp_ns"]
            self._last = record
            self._watch_robot(record)
            is_tracking = int(record["mode"]) == Mode.TRACKING.value
            self.pass_on(int(record["stamp_ns"]), is_news=is_news, is_tracking=is_tracking)
            self._read_hand()

    def obey(self, target_rad: Float | None) -> None:
        """Hand set-points, (7,) rad, to the control process; None to stand."""
        kind = channel.STAND if target_rad is None else channel.TRACK
        self.arm.send(channel.command(kind, target_rad))

    def publish_state(self, stamp_ns: int) -> None:
        """Send the joints."""
        self._voice.publish(self._last, stamp_ns)

    def publish_health(self, stamp_ns: int) -> None:
        """Send the control process's own state, and the hand's."""
        self._voice.publish_health(self._last, self._hand_error, stamp_ns)

    def _read_hand(self) -> None:
        try:
            hand = self.hand.newest(channel.HAND_STATE)
        except channel.Closed:
            self._hand_error = "there is none"
            return
        if hand is not None:
            self._hand_error = hand["error"].decode(errors="replace")
            self._voice.publish_gripper(hand, self.progress.stamp_ns)

    def _watch_robot(self, record: Any) -> None:
        """Pass stops on to the guard and to `realign run`."""
        stop = record["stop"].decode(errors="replace")
        if stop == self._stop:
            return
        self._stop = stop
        if stop not in _HARMLESS:
            self.report_stop(stop, how="stopped", is_fault=True, cure="~/reset or ~/recover")

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Have the arm brought to a stand, and wait for both processes to end."""
        self.arm.send(channel.command(channel.FINISH))
        self.hand.close()
        self.arm.wait(_LAST_S)
        self.hand.wait(_LAST_S)
        with contextlib.suppress(channel.Closed):  # the last packet knows how all of it went
            while (record := self.arm.newest(channel.STATE)) is not None:
                self._last = record

    def after_loss(self) -> int:
        """Say what happened; the control process may have said so."""
        # One that ends before its first state has never moved the robot.
        code = 2 if self.arm.popen.wait() == 2 else 3
        if code == 3 and not self.stops:
            self.stops.append("the control process died: the robot stops by itself")
            self.progress.fault(self.stops[0])
        self.hand.close()
        return code

    def own_summary(self) -> dict[str, object]:
        """Periods of which no state was seen, and times of a cycle."""
        took = self._last["cycle_us"]
        return {
            "skipped_periods": int(self._last["skipped"]),
            "cycle_us": {"p50": took[0], "p99": took[1], "max": took[2]},
        }


def main() -> None:
    """Drive the robot for the duration of the run."""
    drive(DriverNode, lost=channel.Closed)


if __name__ == "__main__":
    main()
