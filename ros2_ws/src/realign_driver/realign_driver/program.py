"""The life of a node's process: made or refused, served, ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from realign_driver.process import refusing

N = TypeVar("N", bound=Node)


def make_node(kind: Callable[[], N], **options: Any) -> N:
    """Start ROS and make a node; where it refuses, exit with code 2 and its sentence.

    Args:
        kind: makes the node.
        options: of ``rclpy.init``.
    """
    rclpy.init(**options)
    with refusing():
        return kind()


def declaring(node: Node) -> Callable[[str, Any], Any]:
    """What declares a parameter of a node by its name and default, and gives its value."""
    return lambda name, default: node.declare_parameter(name, default).value


def end_node(node: Node) -> None:
    """Give back what a node has, and end ROS."""
    node.destroy_node()
    rclpy.try_shutdown()


@contextlib.contextmanager
def until_shutdown() -> Iterator[None]:
    """Leave what is going on when ROS shuts down in the middle of it, as it may at any signal."""
    try:
        yield
    except ExternalShutdownException:
        pass
    except rclpy_implementation.RCLError:
        if rclpy.ok():
            raise


@contextlib.contextmanager
def spinning(*nodes: Node) -> Iterator[None]:
    """Serve nodes in a thread of its own, which has the priority of this one."""
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    thread = threading.Thread(target=_spin, args=(executor,))
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()


def step(node: Node, begin: Callable[[], float | None]) -> None:
    """Serve a node one callback at a time, until its work is done or it is told to stop.

    Args:
        node: the node.
        begin: begins a step; longest time to wait for its callback, s, or None when all is done.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        with until_shutdown(), contextlib.suppress(KeyboardInterrupt):
            while rclpy.ok() and (wait_s := begin()) is not None:
                executor.spin_once(timeout_sec=wait_s)
    finally:
        executor.shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    with until_shutdown():
        executor.spin()


def serve(kind: Callable[[], Node]) -> None:
    """Run a node that is all callbacks, until it is told to stop."""
    node = make_node(kind)
    try:
        with until_shutdown(), contextlib.suppress(KeyboardInterrupt):
            rclpy.spin(node)
    finally:
        end_node(node)
