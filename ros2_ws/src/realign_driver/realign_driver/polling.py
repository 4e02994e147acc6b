"""Subscriptions that executors leave alone, for a loop that takes their messages itself.

rclpy's executor builds a new wait set for all timers, services and subscriptions of a node, and a
coroutine for each callback, at every message: several times the cost of the message itself.
"""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup


class Polled(CallbackGroup):
    """The group of subscriptions that no executor serves."""

    def can_execute(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


def take_newest(subscription: Any) -> bytes | None:
    """The newest message of a :class:`Polled` subscription as it was on the wire, None for none.

    The older ones are dropped; none is unpacked, which is most of what a message costs.
    """
    newest, handle = None, subscription.handle
    with handle:
        while taken := handle.take_message(subscription.msg_type, True):
            newest = taken[0]
    return newest
