"""An arm of bus servos on ROS topics: ``joint_states`` out, ``joint_command`` in.

A servo keeps its last goal by itself, so nothing has to outlive this node: when it dies, the arm
stays where it is, and holds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from std_srvs.srv import Trigger

from policies.interface import Float
from policies.runtime.latency import Percentiles
from realign_driver.robot_driver import RobotDriver, drive
from realign_serial_driver.arm import Arm, Reading, TorqueLimits
from realign_serial_driver.arm_calibration import default_path, load_calibration
from realign_serial_driver.bus import Bus
from realign_serial_driver.core import ArmCore, Mode, Stop
from realign_serial_driver.port import PortLost, open_port
from realign_serial_driver.voice import Voice

NS = 1_000_000_000


class DriverNode(RobotDriver):
    """Parameters to an :class:`Arm`, readings to messages, messages to set-points."""

    def __init__(self) -> None:
        super().__init__("serial_driver")
        port: str = self.value("port", "")
        baud: int = self.value("baud", 1_000_000)
        calibration: str = self.value("calibration", "")
        limits = TorqueLimits(
            joints=self.value("torque_limit", TorqueLimits.joints),
            gripper=self.value("gripper_torque_limit", TorqueLimits.gripper),
        )
        # An emulated arm writes its calibration before its port appears.
        opened = open_port(port, baud, wait_s=self.value("port_wait_s", 0.0))
        path = Path(calibration) if calibration else default_path(self.robot)
        known = load_calibration(path, self.robot)
        self.arm = Arm(self.robot, Bus(opened), known, limits)
        self.arm.greet()
        self.core = ArmCore(self.robot, known.limits_rad(self.robot))
        self.late_ms = Percentiles(16384)
        self._lock = threading.Lock()
        self._stopped_by = Stop.NONE
        self._reading: Reading | None = None
        self._voice = Voice(self, self.robot)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/release", self._release)

    # ---- the operator -------------------------------------------------------------------------

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self.core.reset()
            self.arm.torque = None  # servos that had no power in between have lost it
        response.success, response.message = True, "the torque stays as it is until commands come"
        return response

    def _release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self.core.stop(Stop.OPERATOR)
        response.success, response.message = True, "torque off: the arm sinks; call reset to go on"
        return response

    # ---- the arm ------------------------------------------------------------------------------

    def run(self) -> None:
        """A cycle of the bus at every deadline of an absolute grid, until the run is over.

        Raises:
            PortLost: the port went away.
        """
        period = round(NS / self.robot.state_rate_hz)
        deadline = time.monotonic_ns()
        while self.goes_on:
            now = time.monotonic_ns()
            self.late_ms.add(max(now - deadline, 0) / 1e6)
            with self._lock:
                self.take_command()
                reading = self.arm.cycle(self.core)
            self._watch()
            if reading is not None:
                self._reading = reading
                is_tracking = self.core.mode is Mode.TRACKING
                self.pass_on(reading.stamp_ns, is_news=True, is_tracking=is_tracking)
            deadline = max(deadline + period, time.monotonic_ns() - period)
            time.sleep(max(deadline - time.monotonic_ns(), 0) / NS)

    def obey(self, target_rad: Float | None) -> None:
        """Take set-points, (n,) rad, for the next cycle; None to hold."""
        self.core.on_command(target_rad, time.monotonic_ns())

    def publish_state(self, stamp_ns: int) -> None:
        """Send the joints."""
        assert self._reading is not None  # which is what is being passed on
        self._voice.publish(self._reading, stamp_ns)

    def publish_health(self, stamp_ns: int) -> None:
        """Send the state of bus, servos and watchdog."""
        self._voice.publish_health(self.arm, self.core, stamp_ns)

    def _watch(self) -> None:
        """Pass stops on to the guard."""
        stop = self.core.stopped_by
        if stop is self._stopped_by:
            return
        self._stopped_by = stop
        if stop is not Stop.NONE:
            self._report(stop)

    def _report(self, stop: Stop) -> None:
        text = stop.value
        if stop is Stop.SERVO_SILENT:
            text += f" ({self._silent_joints()})"
        how = "torque off" if self.core.mode is Mode.LIMP else "holding"
        self.report_stop(text, how=how, is_fault=stop in (Stop.SERVO_SILENT, Stop.PORT_LOST))

    def _silent_joints(self) -> str:
        silent = self.core.silent(time.monotonic_ns())
        names = dict(zip(self.arm.calibration.ids, self.robot.joint_names, strict=True))
        return ", ".join(names[servo] for servo in silent)

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Leave the arm holding where it is."""
        with contextlib.suppress(PortLost):
            self.core.stop(Stop.FINISHED)
            self.arm.cycle(self.core)

    def after_loss(self) -> int:
        """Say that the arm is out of reach; it keeps its last goals."""
        self.core.stop(Stop.PORT_LOST)
        self._report(Stop.PORT_LOST)
        return 3

    def destroy_node(self) -> None:
        """Leave the port to others."""
        self.arm.bus.close()
        super().destroy_node()

    def own_summary(self) -> dict[str, object]:
        """How the bus did."""
        bus = self.arm.bus.statistics
        return {
            "bus": {
                "request_ms": bus.cycle_ms.summary(),
                "late_ms": self.late_ms.summary(),
                "requests": bus.requests,
                "missing": bus.missing,
                "damaged": self.arm.bus.bad_checksums,
                "incomplete_cycles": self.arm.incomplete,
            },
        }


def main() -> None:
    """Drive the arm for the duration of the run."""
    drive(DriverNode, lost=PortLost)


if __name__ == "__main__":
    main()
