"""A Robotiq 2F-85 on ROS topics: ``gripper_command`` (width, m) in, ``gripper_state`` out.

Nothing moves before ``~/activate``, which opens and closes the fingers once.
"""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from policies.errors import InputError
from realign_driver.health import Health, HealthPublisher
from realign_driver.program import declaring, serve
from realign_serial_driver.robotiq import (
    MAX_WIDTH_M,
    GripperLost,
    GripperState,
    Robotiq,
)

RATE_HZ = 50.0
LOST_S = 0.5
JOINT = "gripper_width"


class GripperNode(Node):
    """Parameters to a :class:`Robotiq`, messages to widths, states to messages."""

    def __init__(self) -> None:
        super().__init__("gripper_driver")
        value = declaring(self)
        self.speed_m_s: float = value("speed_m_s", 0.1)
        self.force_n: float = value("force_n", 40.0)
        self.gripper = Robotiq(value("port", ""), wait_s=value("port_wait_s", 0.0))
        self._state: GripperState | None = None
        self._wanted_m: float | None = None
        self._heard = self.get_clock().now()
        self._fault = ""
        self._states = self.create_publisher(JointState, "gripper_state", 10)
        self._health = HealthPublisher(self, "realign gripper", "robotiq_2f85")
        self.create_subscription(Float64, "gripper_command", self._on_command, 10)
        self.create_service(Trigger, "~/activate", self._activate)
        self.create_service(Trigger, "~/stop", self._stop)
        self.create_timer(1.0 / RATE_HZ, self._cycle)
        self.create_timer(0.5, self._publish_health)

    def _on_command(self, msg: Float64) -> None:
        if not 0.0 <= msg.data <= MAX_WIDTH_M:  # NaN is not either
            self.get_logger().error(
                f"gripper_command: expected a width from 0 to {MAX_WIDTH_M} m, got {msg.data}",
                throttle_duration_sec=1.0,
            )
            return
        if self._state is None or not self._state.activated:  # nor may it wait until then
            self.get_logger().error(
                "expected an activated gripper: call ~/activate first", throttle_duration_sec=1.0
            )
            return
        self._wanted_m = msg.data

    def _activate(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self.gripper.activate()
            response.success, response.message = True, "activated"
        except (InputError, GripperLost) as error:
            response.message = str(error) or "the gripper does not answer"
        return response

    def _stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._wanted_m = None
        try:
            self.gripper.stop()
            response.success, response.message = True, "stopped where it is"
        except GripperLost:
            response.message = "the gripper does not answer"
        return response

    def _cycle(self) -> None:
        try:
            if self._wanted_m is not None:
                width, self._wanted_m = self._wanted_m, None
                self.gripper.move(width, speed_m_s=self.speed_m_s, force_n=self.force_n)
            self._state = state = self.gripper.read()
        except GripperLost:
            silent_s = (self.get_clock().now() - self._heard).nanoseconds / 1e9
            if silent_s > LOST_S:
                self._report("the gripper does not answer; check its cable and its supply")
            return
        self._heard = self.get_clock().now()
        self._report(state.fault_text)
        message = JointState(name=[JOINT], position=[state.width_m], effort=[state.current_a])
        message.header.stamp = self._heard.to_msg()
        self._states.publish(message)

    def _report(self, fault: str) -> None:
        if fault and fault != self._fault:
            self.get_logger().error(fault)
        self._fault = fault

    def _publish_health(self) -> None:
        state = self._state
        values: dict[str, object] = {"lost": self.gripper.lost}
        if state is not None:
            values["object"] = state.met.name.lower()
            values["activated"] = str(state.activated).lower()
            values["current_a"] = f"{state.current_a:.2f}"
        text = self._fault or (state.met.name.lower() if state else "not heard yet")
        self._health.publish(Health(message=text, values=values, is_error=bool(self._fault)))

    def destroy_node(self) -> None:
        """Leave the port to others; the gripper keeps what it holds."""
        self.gripper.close()
        super().destroy_node()


def main() -> None:
    """Drive the gripper until told to stop."""
    serve(GripperNode)


if __name__ == "__main__":
    main()
