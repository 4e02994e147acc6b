"""A Unitree robot on ROS topics: ``joint_states`` and ``imu`` out, ``joint_command`` in.

The robot itself is reached by a wire process (:mod:`realign_unitree_driver.wire_process`). The two
guard each other: when this node dies, the wire process damps the robot; when the wire process
dies, this node does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from std_srvs.srv import Trigger

from policies.interface import Float
from policies.rotation import tilt_rad
from realign_driver.process import on_stop
from realign_driver.robot_driver import RobotDriver, drive
from realign_driver.robot_process import RobotProcess
from realign_unitree_driver import channel, remote
from realign_unitree_driver.core import Mode, Stop
from realign_unitree_driver.dds import Participant
from realign_unitree_driver.voice import Voice
from realign_unitree_driver.wire_process import (
    SIGN_OF_LIFE_S,
    Wire,
    WireConfig,
    WireLoop,
    make_core,
)
from realign_unitree_driver.wiring import get_wiring

_LAST_DAMPING_S = 6.0
_POLL_S = 0.002
_HANGS_S = 3.0 * SIGN_OF_LIFE_S


class DriverNode(RobotDriver):
    """Parameters to a wire process, packets to messages and back."""

    def __init__(self) -> None:
        super().__init__("unitree_driver")
        mode_machine: int = self.value("mode_machine", -1)
        self.config = WireConfig(
            robot=self.robot.name,
            network=self.value("network", ""),
            domain=self.value("dds_domain", 0),
            ankles=self.value("ankles", "pr"),
            mode_machine=None if mode_machine < 0 else mode_machine,
            release=self.value("release", True),
            realtime_priority=self.realtime_priority and self.realtime_priority + 2,
        )
        get_wiring(self.robot).index(self.robot, self.config.ankles)
        self.max_tilt_rad = 0.0
        self._said = b"", b""
        self._keys: frozenset[str] = frozenset()
        self._last: Any = np.zeros((), dtype=channel.STATE)
        self._voice = Voice(self, self.robot)
        self.create_service(Trigger, "~/reset", self._reset)
        self._arm = self.create_client(Trigger, "guard/arm")
        # Ours for the case that the wire process dies: joining takes too long at that moment.
        self.participant = Participant(self.config.network, self.config.domain)
        module = "realign_unitree_driver.wire_process"
        self.process = RobotProcess(module, self.config, hangs_s=_HANGS_S)

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.process.send(channel.command(channel.RESET))
        response.success, response.message = True, "damping until the guard sends commands again"
        return response

    # ---- the robot ----------------------------------------------------------------------------

    def run(self) -> None:
        """Pass on what the wire process says, until the run is over or it dies.

        Raises:
            channel.Closed: the wire process ended.
        """
        while self.goes_on:
            record = self.process.newest(channel.STATE, wait_s=_POLL_S)
            self.take_command()
            if record is None:
                continue
            is_news = record["stamp_ns"] != self._last["stamp_ns"]
            self._last = record
            self._watch_operator(record)
            is_tracking = int(record["mode"]) == Mode.TRACKING.value
            self.pass_on(int(record["stamp_ns"]), is_news=is_news, is_tracking=is_tracking)

    def obey(self, target_rad: Float | None) -> None:
        """Hand set-points, (n,) rad, to the wire process; None to damp."""
        kind = channel.DAMP if target_rad is None else channel.TRACK
        self.process.send(channel.command(kind, target_rad))

    def publish_state(self, stamp_ns: int) -> None:
        """Send joints and IMU."""
        self._voice.publish(self._last, stamp_ns)
        self.max_tilt_rad = max(self.max_tilt_rad, tilt_rad(self._last["quat_wxyz"]))

    def publish_health(self, stamp_ns: int) -> None:
        """Send the wire process's own state."""
        self._voice.publish_health(self._last, stamp_ns)

    def _watch_operator(self, record: Any) -> None:
        """Pass stops and the remote's keys on to the guard."""
        said = record["stop"], record["keys"]
        if said == self._said:
            return
        news, self._said = said[0] != self._said[0], said
        stop, keys = said[0].decode(), frozenset(said[1].decode().split())
        if stop and news:
            is_fault = stop == Stop.ROBOT_SILENT.value
            self.report_stop(stop, how="damping", is_fault=is_fault)
        if remote.wants_arm(keys) and not remote.wants_arm(self._keys):
            if self.started:
                self.call_guard(self._arm)
            self.started = True
        self._keys = keys

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Have the robot damped for a while, and wait for the wire process to end."""
        self.process.send(channel.command(channel.FINISH))
        self.process.wait(_LAST_DAMPING_S)

    def after_loss(self) -> int:
        """Damp the robot ourselves if it has ever moved; the wire process may have said why."""
        code = 2 if self.process.popen.wait() == 2 else 3
        if self.progress.stamp_ns:
            self._damp_ourselves()
        return code

    def _damp_ourselves(self) -> None:
        """Take the wire process's place, only to damp, until the robot is off or a signal comes."""
        text = "the wire process died: this node damps the robot until it is switched off"
        self.get_logger().fatal(text)
        self.progress.fault(text)
        mover = Wire(self.config, self.participant)
        core = make_core(mover)
        core.stop(Stop.WIRE_DIED)
        self.stops.append(Stop.WIRE_DIED.value)
        loop = WireLoop(mover, core, None)
        on_stop(loop.finish)
        loop.run()

    def own_summary(self) -> dict[str, object]:
        """Tilt, gaps between commands, and damaged states."""
        gap = self._last["gap_ms"]
        return {
            "max_tilt_rad": self.max_tilt_rad,
            "command_gap_ms": {"p50": gap[0], "p99": gap[1], "max": gap[2]},
            "damaged": int(self._last["damaged"]),
        }


def main() -> None:
    """Drive the robot for the duration of the run."""
    drive(DriverNode, lost=channel.Closed)


if __name__ == "__main__":
    main()
