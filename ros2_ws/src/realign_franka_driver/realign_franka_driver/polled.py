"""Subscriptions that executors leave alone, for a loop that takes their messages itself."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup


class Polled(CallbackGroup):
    """An executor spends several times as long on a message as the message itself needs."""

    def can_execute(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""
