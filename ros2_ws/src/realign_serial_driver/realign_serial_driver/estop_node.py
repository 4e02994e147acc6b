"""The serial e-stop button: while it counts as pressed, the guard is told to stop, and told again.

``operator_stop`` says twenty times a second whether it is pressed: a guard with
``operator_timeout_s`` also stops when this node falls silent. Releasing the button releases
nothing: an operator calls ``/guard/reset`` and ``/guard/arm``.
"""

from __future__ import annotations

import time

from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from policies.errors import InputError
from realign_driver.health import Health, HealthPublisher
from realign_driver.program import declaring, serve
from realign_serial_driver.button import BAUD, PERIOD_S, ButtonConfig, ButtonMonitor, Pressed
from realign_serial_driver.port import PortLost, open_port, read_some

CYCLE_S = 0.01
REPEAT_S = 0.2
FIRST_LINE_S = 3.0


class EstopNode(Node):
    """Lines from the button to calls of the guard's e-stop."""

    def __init__(self) -> None:
        super().__init__("estop_button")
        value = declaring(self)
        path: str = value("port", "")
        config = ButtonConfig(silence_s=value("silence_s", ButtonConfig.silence_s))
        if not config.silence_s > PERIOD_S:
            raise InputError(
                f"expected silence_s above {PERIOD_S:g} s, the period of the button's lines, got "
                f"{config.silence_s:g}; five periods are usual"
            )
        self.port = open_port(path, BAUD, wait_s=value("port_wait_s", 0.0))
        self.monitor = ButtonMonitor(config)
        self._wait_for_first_line(path)
        self._said: Pressed | None = None
        self._asked_ns = self._told_ns = 0
        self._lost = False
        self._state = self.create_publisher(Bool, "operator_stop", 10)
        self._health = HealthPublisher(self, "realign e-stop button", "estop_button")
        self._guard = self.create_client(Trigger, "guard/estop")
        self.create_timer(CYCLE_S, self._cycle)
        self.create_timer(0.5, self._publish_health)

    def _wait_for_first_line(self, path: str) -> None:
        deadline = time.monotonic() + FIRST_LINE_S
        while self.monitor.pressed(time.monotonic_ns()) is Pressed.NEVER_HEARD:
            if time.monotonic() > deadline:
                raise InputError(
                    f"expected lines of an e-stop button on {path} at {BAUD} baud, but none came "
                    f"within {FIRST_LINE_S:g} s; check its cable, its program and the port"
                )
            try:
                self.monitor.feed(read_some(self.port, 0.1), time.monotonic_ns())
            except PortLost:
                raise InputError(
                    f"expected an e-stop button on {path}, but the port went away; check its cable"
                ) from None

    def _cycle(self) -> None:
        now = time.monotonic_ns()
        if not self._lost:
            try:
                self.monitor.feed(read_some(self.port, 0.0), now)
            except PortLost:
                self._lost = True  # from here on it is silent
        pressed = self.monitor.pressed(now)
        if pressed is not self._said:
            self._said = pressed
            text = pressed.value or "the e-stop button is released; reset and arm the guard"
            self.get_logger().warning(text)
            self._asked_ns = self._told_ns = 0
        if now - self._told_ns > PERIOD_S * 1e9:
            self._told_ns = now
            self._state.publish(Bool(data=pressed is not Pressed.NO))
        if pressed is not Pressed.NO and now - self._asked_ns > REPEAT_S * 1e9:
            self._asked_ns = now
            if self._guard.service_is_ready():
                self._guard.call_async(Trigger.Request())
            else:
                self.get_logger().error("there is no guard to stop", throttle_duration_sec=1.0)

    def _publish_health(self) -> None:
        pressed = self._said or Pressed.NO
        health = Health(
            message=pressed.value or "released",
            values={"bad_lines": self.monitor.bad_lines},
            is_error=pressed is not Pressed.NO,
        )
        self._health.publish(health)

    def destroy_node(self) -> None:
        """Leave the port to others."""
        self.port.close()
        super().destroy_node()


def main() -> None:
    """Watch the button until told to stop."""
    serve(EstopNode)


if __name__ == "__main__":
    main()
