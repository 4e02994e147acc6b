"""Closed loop of one policy with a batch of environments that go in step with each other.

Everything is counted in steps: nothing in a result but the times depends on how fast the machine
is, so a seed and a configuration give the same runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from policies.diffusion.interface import ChunkModel
from policies.errors import InputError
from policies.evaluation.environment import Environment
from policies.evaluation.windows import Windows, match
from policies.interface import Float
from policies.runtime.action_queue import Executor, Hold
from policies.runtime.execution import EXECUTORS, make_executor
from policies.runtime.inference_delay import InferenceDelay

FIRST_SEED = 1_000_000
"""Runs of an evaluation start from here: demonstrations have lower seeds."""
_SEEDS_APART = 10_000


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How a policy is run.

    Attributes:
        executor: one of :data:`policies.runtime.execution.EXECUTORS`.
        action_horizon: actions from one request to the next; None for the policy's own.
        delay_steps: steps from an observation to the answer to it.
        drop: share of observations that get lost.
        in_flight: requests that may be under way at a time (``async``, ``rtc``).
        fade: steps beyond the delay over which the bond of ``rtc`` to the running plan fades;
            None for all that it has.
        decay: of the weights of ``ensemble``.
    """

    executor: str = "receding"
    action_horizon: int | None = None
    delay_steps: int = 0
    drop: float = 0.0
    in_flight: int = 1
    fade: int | None = None
    decay: float = 0.01

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise InputError(
                f"executor: expected one out of {list(EXECUTORS)}, got {self.executor!r}"
            )
        if not 0.0 <= self.drop < 1.0:
            raise InputError(f"drop: expected a share within [0, 1), got {self.drop}")
        if self.delay_steps < 0:
            raise InputError(f"delay_steps: expected 0 or more steps, got {self.delay_steps}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one environment.

    Attributes:
        seed: of the environment.
        success: the task was solved.
        failure: it ended early without success (a collision, a fall).
        actions: what was sent, (T, A), in the order of the environment.
        states: state before each action, (T, D), in the order of the environment.
        waited: steps before the first answer came, in which the robot stood still.
    """

    seed: int
    success: bool
    failure: bool
    actions: Float
    states: Float
    waited: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One call of the model.

    Attributes:
        seconds: how long it took, s.
        network_calls: evaluations of the network.
        actions: steps until the next call.
    """

    seconds: float
    network_calls: int
    actions: int


def run_seeds(seed: int, episodes: int) -> range:
    """Seeds of the environments of an evaluation."""
    first = FIRST_SEED + seed * _SEEDS_APART
    return range(first, first + episodes)


def run_batch(
    model: ChunkModel,
    environments: Sequence[Environment],
    seeds: Sequence[int],
    config: ExecutionConfig,
    report: Callable[[int], None] | None = None,
) -> tuple[list[Run], list[Answer]]:
    """Run each environment once.

    Args:
        model: the policy.
        environments: one for each seed, all of one task.
        seeds: of the environments; the first one also seeds the model.
        config: how the policy is run.
        report: called with the number of runs that have just ended.

    Raises:
        InputError: policy and task do not fit.
    """
    return _Batch(model, environments, seeds, config).run(report or (lambda _: None))


class _Batch:
    """State of :func:`run_batch`."""

    def __init__(
        self,
        model: ChunkModel,
        environments: Sequence[Environment],
        seeds: Sequence[int],
        config: ExecutionConfig,
    ) -> None:
        self.model, self.environments, self.seeds = model, environments, seeds
        self.spec = environments[0].spec
        state_index, self.action_index = match(model.spec, self.spec)
        self.config = config
        self.seen = [env.reset(s) for env, s in zip(environments, seeds, strict=True)]
        self.windows = Windows(model.spec, state_index, self.seen)
        # A stream of its own for each run: it does not depend on who else is in the batch.
        self.lost = [np.random.default_rng([seed, 1]) for seed in seeds]
        self.executor = self._executor()
        self.delay = InferenceDelay(config.delay_steps)
        self.open = [True] * len(seeds)
        self.success = [False] * len(seeds)
        self.failure = [False] * len(seeds)
        self.actions: list[list[Float]] = [[] for _ in seeds]
        self.states: list[list[Float]] = [[] for _ in seeds]
        self.waited: int | None = None
        self.calls: list[tuple[int, float, int]] = []  # step, seconds, network calls
        model.reset(seeds[0], batch=len(seeds))

    def _executor(self) -> Executor:
        config, spec = self.config, self.model.spec
        horizon = config.action_horizon or spec.action_horizon
        if horizon > spec.prediction_horizon:
            raise InputError(
                f"action_horizon: expected at most the {spec.prediction_horizon} actions of a "
                f"chunk of {spec.name}, got {horizon}"
            )
        hold = self.spec.hold
        order = [self.spec.action_names.index(name) for name in spec.action_names]
        return make_executor(
            config.executor,
            action_horizon=horizon,
            hold=Hold(
                rest=tuple(hold.rest[i] for i in order), keep=tuple(hold.keep[i] for i in order)
            ),
            expected_delay=config.delay_steps,
            in_flight=config.in_flight,
            fade=config.fade,
            decay=config.decay,
        )

    def run(self, report: Callable[[int], None]) -> tuple[list[Run], list[Answer]]:
        step = 0
        while any(self.open) and step < self.spec.max_steps:
            before = sum(self.open)
            self._ask(step)
            self._act(step)
            step += 1
            report(before - sum(self.open))
        report(sum(self.open))
        runs = [
            Run(
                seed=seed,
                success=self.success[row],
                failure=self.failure[row],
                actions=np.array(self.actions[row]),
                states=np.array(self.states[row]),
                waited=min(step if self.waited is None else self.waited, len(self.actions[row])),
            )
            for row, seed in enumerate(self.seeds)
        ]
        ends = [*[at for at, _, _ in self.calls[1:]], step]
        answers = [
            Answer(seconds=seconds, network_calls=calls, actions=end - at)
            for (at, seconds, calls), end in zip(self.calls, ends, strict=True)
        ]
        return runs, answers

    def _ask(self, step: int) -> None:
        self._deliver(step)
        request = self.executor.request(step)
        if request is None:
            return
        window = self.windows.window()
        calls, start = self.model.network_calls, perf_counter()
        chunk = self.model.sample(window, executed=request.executed, prefix=request.prefix)
        self.calls.append((step, perf_counter() - start, self.model.network_calls - calls))
        self.delay.put(request.id, np.asarray(chunk, dtype=np.float64), step)
        self._deliver(step)

    def _deliver(self, step: int) -> None:
        for request, actions in self.delay.due(step):
            if self.executor.reply(request, actions, step) and self.waited is None:
                self.waited = step

    def _act(self, step: int) -> None:
        # Before the first answer there is one hold for all.
        action = self.executor.action(step)[..., self.action_index]
        sent = np.broadcast_to(action, (len(self.seeds), action.shape[-1]))
        for row, environment in enumerate(self.environments):
            if not self.open[row]:
                continue
            self.states[row].append(self.seen[row].state)
            self.actions[row].append(sent[row].copy())
            outcome = environment.step(sent[row])
            self.seen[row] = outcome.seen
            lost = self.lost[row].random() < self.config.drop
            self.windows.add(row, None if lost else outcome.seen)
            if outcome.done:
                self.open[row] = False
                self.success[row], self.failure[row] = outcome.success, outcome.failure
