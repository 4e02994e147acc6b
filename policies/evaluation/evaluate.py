"""Evaluation of a chunk policy on a task: success with its interval, smoothness, time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.diffusion.interface import ChunkModel
from policies.errors import InputError
from policies.evaluation.environment import Environment, EnvironmentSpec
from policies.evaluation.loop import Answer, ExecutionConfig, Run, run_batch, run_seeds
from policies.evaluation.metrics import jerk, largest_jump, percentiles, wilson

_WARM_UP_ANSWERS = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is run.

    Attributes:
        episodes: runs.
        batch: runs that go side by side.
        timed_episodes: runs on their own, one after the other, whose answers are timed.
        seed: of environments, policy and lost observations.
    """

    episodes: int = 50
    batch: int = 25
    timed_episodes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("episodes", "batch", "timed_episodes"):
            if getattr(self, name) < (name != "timed_episodes"):
                raise InputError(f"{name}: expected a positive number, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        environment: names and limits of the task.
        runs: the runs.
        answers: the model's answers of the timed runs, batch 1; empty if none was timed.
    """

    environment: EnvironmentSpec
    runs: tuple[Run, ...]
    answers: tuple[Answer, ...] = ()

    @property
    def successes(self) -> int:
        """Number of runs that succeeded."""
        return sum(run.success for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Figures of it, JSON-ready. Times are in ms."""
        count = len(self.runs)
        smooth = np.array(self.environment.smooth)
        # That it starts to move at all is no jump of the policy's.
        moving = [run.actions[run.waited :, smooth] for run in self.runs]
        jumps = [largest_jump(actions) for actions in moving]
        out: dict[str, Any] = {
            "task": self.environment.name,
            "episodes": count,
            "successes": self.successes,
            "success": self.successes / count,
            "success_ci95": list(wilson(self.successes, count)),
            "failures": sum(run.failure for run in self.runs),
            "steps_mean": float(np.mean([len(run.actions) for run in self.runs])),
            "largest_jump": max(jumps),
            "largest_jump_median": float(np.median(jumps)),
            "jerk_median": float(np.median([jerk(actions) for actions in moving])),
        }
        if self.answers:
            out |= timing(self.answers)
        return out


def timing(answers: Sequence[Answer]) -> dict[str, Any]:
    """Time and network calls of answers: each one's are shared out among the actions it gave."""
    per_action = [
        1e3 * answer.seconds / answer.actions for answer in answers for _ in range(answer.actions)
    ]
    actions = len(per_action)
    return {
        "timed_actions": actions,
        "time_per_action_ms": percentiles(per_action),
        "time_per_answer_ms": percentiles([1e3 * answer.seconds for answer in answers]),
        "network_calls_per_action": sum(answer.network_calls for answer in answers) / actions,
        "network_calls_per_answer": float(np.mean([answer.network_calls for answer in answers])),
    }


def evaluate(
    model: ChunkModel,
    make: Callable[[], Environment],
    *,
    execution: ExecutionConfig | None = None,
    config: EvaluationConfig | None = None,
    report: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run a policy on a task.

    Args:
        model: the policy.
        make: makes one environment of the task.
        execution: how the policy is run.
        config: how much is run.
        report: called with the number of runs that have just ended.

    Raises:
        InputError: policy and task do not fit.
    """
    execution, config = execution or ExecutionConfig(), config or EvaluationConfig()
    environments = [make() for _ in range(min(config.batch, config.episodes))]
    seeds = run_seeds(config.seed, config.episodes)
    runs: list[Run] = []
    for first in range(0, config.episodes, config.batch):
        chosen = seeds[first : first + config.batch]
        runs += run_batch(model, environments[: len(chosen)], chosen, execution, report)[0]
    answers: list[Answer] = []
    for seed in seeds[: config.timed_episodes]:
        answers += run_batch(model, environments[:1], [seed], execution)[1]
    # The first answers of a process are slow: caches, lazy allocation.
    del answers[: min(_WARM_UP_ANSWERS, len(answers) - 1)]
    return Evaluation(environment=environments[0].spec, runs=tuple(runs), answers=tuple(answers))
