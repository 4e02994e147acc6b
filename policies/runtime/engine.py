"""What runs a policy: from observations to action chunks, or to a failure with a name.

An engine is called at each tick of the policy and gives the commands from that tick on, or nothing:
then nothing is sent, and the guard holds the robot and stops it.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from policies.errors import InputError
from policies.interface import ActionChunk, Observation, Policy
from policies.runtime.failure import PolicyFailure, failure_of
from policies.runtime.latency import Percentiles
from policies.runtime.plan_engine import PlanEngine
from policies.runtime.planning import EngineConfig, PlanningPolicy

_OF_PLANS = {
    "--executor": "executor",
    "--action-horizon": "action_horizon",
    "--inference-delay": "inference_delay_steps",
    "--in-flight": "in_flight",
    "--fade": "fade",
}
"""Options of ``realign run`` that only policies have which plan -> what they set."""


class Engine(Protocol):
    """Runs a policy.

    Attributes:
        failure: why the policy has stopped answering, or None; a reset clears it.
    """

    failure: PolicyFailure | None

    def reset(self, seed: int) -> None:
        """Start over.

        Raises:
            FaultError: the policy cannot be started.
        """

    def tick(self, observation: Observation) -> ActionChunk | None:
        """The commands from this observation on, or None where nothing must be sent.

        The same observation may be given again, to learn whether an answer has come meanwhile.
        """

    def report(self) -> dict[str, Any]:
        """Figures since the last reset, JSON-ready."""

    def close(self) -> None:
        """End what works beside the caller."""


class DirectEngine:
    """Asks a policy at every tick and waits: feedback control that answers within a millisecond."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.failure: PolicyFailure | None = None
        self._times = Percentiles()
        self._total_s = 0.0

    def reset(self, seed: int) -> None:
        """See :class:`Engine`."""
        self._policy.reset(seed)
        self.failure = None

    def tick(self, observation: Observation) -> ActionChunk | None:
        """See :class:`Engine`."""
        if self.failure is not None:
            return None
        start = time.perf_counter()
        try:
            chunk = self._policy.act(observation)
        except Exception as error:  # whatever a model raises, the robot is to be held
            self.failure = failure_of(error)
            return None
        took = time.perf_counter() - start
        self._times.add(took * 1e3)
        self._total_s += took
        return chunk

    def report(self) -> dict[str, Any]:
        """See :class:`Engine`."""
        return {
            "answers": self._times.count,
            "inference_ms": self._times.summary(),
            "inference_total_s": self._total_s,
            "failure": self.failure and self.failure.describe(),
        }

    def close(self) -> None:
        """Nothing works beside the caller."""


def make_engine(policy: Policy, config: EngineConfig) -> Engine:
    """The engine for a policy.

    Raises:
        InputError: the configuration does not fit the policy.
    """
    if isinstance(policy, PlanningPolicy):
        return PlanEngine(policy, config)
    for option, name in _OF_PLANS.items():
        if getattr(config, name) != getattr(EngineConfig, name):
            raise InputError(
                f"{option}: expected a policy that plans chunks of actions, got "
                f"{policy.spec.name!r}, which answers each observation; leave it out"
            )
    return DirectEngine(policy)
