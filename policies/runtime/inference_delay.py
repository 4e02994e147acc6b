"""A delay of inference that is counted in steps, so that a run with latency can be repeated."""

from __future__ import annotations

from policies.errors import InputError
from policies.interface import Float


class InferenceDelay:
    """Answers under way: what was asked at step t is there from step t + d on."""

    def __init__(self, steps: int) -> None:
        """Make one.

        Args:
            steps: d, 0 or more.
        """
        if steps < 0:
            raise InputError(f"inference delay: expected 0 or more steps, got {steps}")
        self.steps = steps
        self._under_way: list[tuple[int, int, Float]] = []

    def reset(self) -> None:
        """Forget what is under way."""
        self._under_way.clear()

    def put(self, request: int, actions: Float, step: int) -> None:
        """Send the answer to a request that was made at ``step``."""
        self._under_way.append((step + self.steps, request, actions))

    def due(self, step: int) -> list[tuple[int, Float]]:
        """Take out (request id, actions) of what has come by ``step``, in order of requests."""
        come = [(request, actions) for at, request, actions in self._under_way if at <= step]
        self._under_way = [entry for entry in self._under_way if entry[0] > step]
        return come
