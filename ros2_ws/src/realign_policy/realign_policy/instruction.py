"""What a policy is told to do, on ``~/instruction``; a parameter is what is said there first."""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import String

from realign_driver.qos import LATCHED_NEWEST

MAX_CHARACTERS = 2000


class Instruction:
    """The newest instruction."""

    def __init__(self, node: Node, first: str) -> None:
        self._node, self._text = node, first
        node.create_subscription(String, "~/instruction", self._on_text, LATCHED_NEWEST)
        self._first = None
        if first:  # whoever records hears it too
            self._first = node.create_publisher(String, "~/instruction", LATCHED_NEWEST)
            self._first.publish(String(data=first))

    @property
    def text(self) -> str | None:
        """The words, or None if there are none."""
        return self._text or None

    def _on_text(self, msg: String) -> None:
        if len(msg.data) > MAX_CHARACTERS:
            self._node.get_logger().error(
                f"~/instruction: expected up to {MAX_CHARACTERS} characters, got {len(msg.data)}; "
                f"{self._text!r} stays"
            )
            return
        if msg.data == self._text:
            return
        self._text = msg.data
        if self._first is not None:  # who joins later must not hear what no longer holds
            self._node.destroy_publisher(self._first)
            self._first = None
        self._node.get_logger().info(f"instruction: {msg.data!r}")
