"""What a policy is told to do: by a parameter at first, then on ``~/instruction``."""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import String

from realign_policy.sensing import LATCHED

MAX_CHARACTERS = 2000


class Instruction:
    """The newest instruction."""

    def __init__(self, node: Node, first: str) -> None:
        self._node, self._text = node, first
        node.create_subscription(String, "~/instruction", self._on_text, LATCHED)

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
        self._text = msg.data
        self._node.get_logger().info(f"instruction: {msg.data!r}")
