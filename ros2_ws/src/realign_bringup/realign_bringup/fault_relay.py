"""A relay between two topics that loses, repeats, delays and reorders messages.

    ros2 run realign_bringup fault_relay --ros-args -p source:=chunk_in -p sink:=action_chunk \
        -p type:=trajectory -p drop:=0.1 -p delay_s:=0.02 -p jitter_s:=0.03

Point the publisher at ``source`` by a remapping. Messages pass as they are on the wire, never
deserialised; the same seed and the same messages give the same faults.
"""

from __future__ import annotations

import time

from rclpy.node import Node
from sensor_msgs.msg import Imu, JointState
from trajectory_msgs.msg import JointTrajectory

from policies.errors import InputError
from realign_driver.program import declaring, end_node, make_node, step
from realign_driver.qos import QOS
from sim2real.testing.link import FaultyLink, LinkFaults

TYPES = {"trajectory": JointTrajectory, "joint_state": JointState, "imu": Imu}
_IDLE_S = 0.05


class FaultRelay(Node):
    """Parameters to a :class:`FaultyLink`; messages through it."""

    def __init__(self) -> None:
        super().__init__("fault_relay")
        value = declaring(self)
        kind = value("type", "trajectory")
        if kind not in TYPES:
            raise InputError(f"type: expected one out of {sorted(TYPES)}, got {kind!r}")
        faults = LinkFaults(
            drop=value("drop", 0.0),
            duplicate=value("duplicate", 0.0),
            delay_s=value("delay_s", 0.0),
            jitter_s=value("jitter_s", 0.0),
            outages=parse_outages(value("outages", "")),
        )
        self._link: FaultyLink[bytes] = FaultyLink(faults, seed=value("seed", 0))
        self._sink = self.create_publisher(TYPES[kind], value("sink", "action_chunk"), QOS)
        self.create_subscription(
            TYPES[kind], value("source", "action_chunk_in"), self._take, QOS, raw=True
        )

    def _take(self, data: bytes) -> None:
        self._link.send(data, time.monotonic_ns())
        self.pass_on()

    def pass_on(self) -> float:
        """Publish what has arrived; returns the time until more is due, s."""
        for data in self._link.receive(time.monotonic_ns()):
            self._sink.publish(data)
        due = self._link.next_ns
        return _IDLE_S if due is None else min(max((due - time.monotonic_ns()) / 1e9, 0.0), _IDLE_S)


def parse_outages(text: str) -> tuple[tuple[float, float], ...]:
    """``"1.0:0.3,5:2"`` -> outages: start and duration in s since the first message.

    Raises:
        InputError: not of this form.
    """
    try:
        pairs = [item.split(":") for item in filter(None, text.split(","))]
        return tuple((float(start), float(duration)) for start, duration in pairs)
    except ValueError:
        raise InputError(
            f"outages: expected pairs like 1.0:0.3 (start:duration, s), got {text!r}"
        ) from None


def main() -> None:
    """Relay until told to stop."""
    node = make_node(FaultRelay)
    try:
        step(node, node.pass_on)
    finally:
        end_node(node)


if __name__ == "__main__":
    main()
