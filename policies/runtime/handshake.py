"""Nobody misses the first message: nodes say when they hear, the driver waits for it.

A ROS publisher knows when it has matched a subscription, but the subscription may learn of the
publisher later and drop what came before. So each listener checks its own side and announces itself
on the latched topic ``ready``. By duck typing, like :mod:`policies.messages`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def announce_when_matched(
    node: Any,
    publisher: Any,
    header: Any,
    subscriptions: Sequence[Any],
    also: Callable[[], bool] = lambda: True,
) -> None:
    """Publish the node's name once every one of its subscriptions has a publisher.

    Args:
        node: rclpy node; a timer of it does the checking.
        publisher: latched publisher of ``std_msgs/Header`` on ``ready``.
        header: the message to publish; ``frame_id`` becomes the node's name.
        subscriptions: rclpy subscriptions.
        also: a further condition.
    """
    header.frame_id = node.get_name()

    def check() -> None:
        if also() and all(s.get_publisher_count() > 0 for s in subscriptions):
            timer.cancel()
            publisher.publish(header)

    timer = node.create_timer(0.02, check)
