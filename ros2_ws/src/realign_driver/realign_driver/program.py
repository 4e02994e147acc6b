"""The life of a node's process: made or refused, served, ended."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from policies.errors import InputError

N = TypeVar("N", bound=Node)


def make_node(kind: Callable[[], N]) -> N:
    """Start ROS and make a node; where it refuses, exit with code 2 and its sentence."""
    rclpy.init()
    try:
        return kind()
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None


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
