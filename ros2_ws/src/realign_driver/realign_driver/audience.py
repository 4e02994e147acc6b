"""Who hears a robot from its first state on: both sides of the topic ``ready``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Header

from policies.runtime.handshake import announce_when_matched
from realign_driver.qos import LATCHED, LATCHED_NEWEST


def announce(
    node: Node, subscriptions: Sequence[Any], also: Callable[[], bool] = lambda: True
) -> Publisher:
    """Say on ``ready`` that a node hears, once each of its subscriptions has a publisher.

    Args:
        node: the node.
        subscriptions: what it must hear.
        also: a further condition.
    """
    ready = node.create_publisher(Header, "ready", LATCHED_NEWEST)
    announce_when_matched(node, ready, Header(), subscriptions, also)
    return ready


class Audience:
    """The nodes that a robot waits for.

    Args:
        node: driver node.
        names: theirs, with commas between them.
    """

    def __init__(self, node: Node, names: str) -> None:
        self._missing = set(filter(None, names.split(",")))
        node.create_subscription(Header, "ready", self._on_ready, LATCHED)

    @property
    def complete(self) -> bool:
        """True when all of them have said that they hear."""
        return not self._missing

    def _on_ready(self, msg: Header) -> None:
        self._missing.discard(msg.frame_id)
