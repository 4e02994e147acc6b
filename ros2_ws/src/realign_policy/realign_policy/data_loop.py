"""A loop for the messages that are in a hurry.

rclpy's executor builds a new wait set for all timers, services and subscriptions of a node, and a
coroutine for each callback, at every message: about twice the cost of the message itself. The data
of a control loop takes a shorter way: one wait set for a handful of subscriptions, and a plain call
for each message. All else (timers, services, parameters) stays with the executor, in a thread of
its own: subscriptions made in a :class:`DataGroup` are invisible to it.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from realign_driver.polling import Polled
from realign_driver.program import spinning, until_shutdown

_WAIT_NS = 50_000_000


class DataGroup(Polled):
    """Subscriptions that :func:`spin` serves and executors leave alone."""


def spin(node: Node, group: DataGroup) -> None:
    """Serve ``group`` here and everything else of ``node`` in a thread, until ROS shuts down.

    Messages of one topic come in order; callbacks of the group never overlap each other, but they
    do overlap timers and services.
    """
    with spinning(node):
        _serve_data(node, group)


def _serve_data(node: Node, group: DataGroup) -> None:
    with until_shutdown():
        while rclpy.ok():
            subscriptions = _members(node, group)
            if subscriptions:
                _serve(node, group, subscriptions)
            else:
                time.sleep(_WAIT_NS / 1e9)


def _members(node: Node, group: DataGroup) -> tuple[Any, ...]:
    return tuple(s for s in node.subscriptions if s.callback_group is group)


def _serve(node: Node, group: DataGroup, subscriptions: tuple[Any, ...]) -> None:
    """Serve these until the group has others (a lifecycle node subscribes when configured)."""
    with contextlib.ExitStack() as stack:
        for subscription in subscriptions:
            stack.enter_context(subscription.handle)
        count = len(subscriptions)
        wait_set = rclpy_implementation.WaitSet(count, 0, 0, 0, 0, 0, node.context.handle)
        by_pointer = {s.handle.pointer: s for s in subscriptions}
        while rclpy.ok() and _members(node, group) == subscriptions:
            wait_set.clear_entities()
            for subscription in subscriptions:
                wait_set.add_subscription(subscription.handle)
            wait_set.wait(_WAIT_NS)
            for pointer in wait_set.get_ready_entities("subscription"):
                subscription = by_pointer[pointer]
                while taken := subscription.handle.take_message(
                    subscription.msg_type, subscription.raw
                ):
                    subscription.callback(taken[0])
