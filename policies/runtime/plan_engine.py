"""Engine of policies that plan ahead: the model is evaluated beside the loop that calls.

Pure but for the evaluation (:mod:`policies.runtime.inference`): time is the stamp of the
observation, counted in steps of the policy's rate.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.diffusion.interface import Prefix, Window, blank_window
from policies.errors import InputError
from policies.interface import ActionChunk, Float, Observation
from policies.messages import NS
from policies.runtime.action_queue import Hold, Request
from policies.runtime.execution import make_executor
from policies.runtime.failure import Failure, PolicyFailure, PolicyFailureError, failure_of
from policies.runtime.inference import Inference, InlineInference, Outcome, ThreadedInference
from policies.runtime.inference_delay import InferenceDelay
from policies.runtime.latency import Percentiles
from policies.runtime.planning import Connected, EngineConfig, PlanningPolicy

_RESET = -1
_RESET_S = 60.0
_CLOSE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class _Course:
    """Commands and speeds from a step on, (steps, joints) each."""

    start: int
    commands: Float
    speeds: Float
    stopping: bool


class PlanEngine:
    """Runs a policy that plans ahead with one of the executors of action chunks.

    Args:
        policy: the policy.
        config: how it is run.
        inference: what evaluates the model; None for a thread, or in lockstep the caller itself.

    Raises:
        InputError: the configuration does not fit the policy.
    """

    def __init__(
        self, policy: PlanningPolicy, config: EngineConfig, inference: Inference | None = None
    ) -> None:
        spec = policy.model.spec
        horizon = config.action_horizon or spec.action_horizon
        if horizon > spec.prediction_horizon:
            raise InputError(
                f"action_horizon: expected at most the {spec.prediction_horizon} actions of a "
                f"chunk of {spec.name}, got {horizon}"
            )
        self._dt_s = 1.0 / spec.rate_hz
        self._wait_s = 0.5 * self._dt_s if config.wait_s is None else config.wait_s
        self._took_s = 0.0
        delay_s = config.inference_delay_steps * self._dt_s
        if delay_s > config.deadline_s:
            raise InputError(
                f"inference_delay_steps: expected a delay of at most the deadline of "
                f"{config.deadline_s:g} s, got {config.inference_delay_steps} steps, which are "
                f"{delay_s:g} s; raise the deadline too"
            )
        self.policy, self.config = policy, config
        self._horizon = horizon
        self._delay = InferenceDelay(config.inference_delay_steps)
        self._inference = inference or (
            InlineInference() if config.lockstep else ThreadedInference()
        )
        self._shape = (1, spec.prediction_horizon, len(spec.action_names))
        self._clear(config.inference_delay_steps)

    def _clear(self, expected_delay: int) -> None:
        count = self._shape[2]
        self._executor = make_executor(
            self.config.executor,
            action_horizon=self._horizon,
            # Only plans are taken from the executor: without one, the engine stops by itself.
            hold=Hold(rest=(0.0,) * count, keep=(True,) * count),
            expected_delay=expected_delay,
            in_flight=self.config.in_flight,
            fade=self.config.fade,
        )
        self.failure: PolicyFailure | None = None
        self._origin_ns: int | None = None
        self._last_ns = 0
        self._times, self._delays = Percentiles(), Percentiles()
        self._total_s = 0.0
        self._dropped = self._held = self._stalls = 0
        self._restart()

    def _restart(self) -> None:
        """Forget plan and requests: the next answer starts from where the robot is."""
        self._executor.reset()
        self._delay.reset()
        self._asked: dict[int, int] = {}
        self._waiting_since: int | None = None
        self._course: _Course | None = None

    def reset(self, seed: int) -> None:
        """See :class:`policies.runtime.engine.Engine`.

        Raises:
            PolicyFailureError: the model cannot be started.
        """
        self._inference.submit(_RESET, lambda: self._start(seed))
        outcome = self._await_start()
        delay = self.config.inference_delay_steps
        if not self.config.lockstep:
            delay = max(delay, math.ceil(self._took_s / self._dt_s))
        self._clear(delay)
        self.failure = outcome.failure
        if self.failure is not None:
            raise PolicyFailureError(self.failure.kind, self.failure.text)

    def _start(self, seed: int) -> None:
        """Reset, after one evaluation: it loads the model, and shows what it takes and can."""
        model = self.policy.model
        self.policy.reset(seed)
        prefix = None
        if self.config.executor == "rtc":
            horizon = self._shape[1]
            prefix = Prefix(actions=np.zeros(self._shape), weights=np.zeros(horizon))
        start = time.perf_counter()
        model.sample(blank_window(model.spec), prefix=prefix)
        self._took_s = time.perf_counter() - start
        self.policy.reset(seed)

    def _await_start(self) -> Outcome:
        deadline = time.monotonic() + _RESET_S
        while (left := deadline - time.monotonic()) > 0.0:
            self._inference.wait(left)
            for outcome in self._inference.poll():  # answers from before come first
                if outcome.request == _RESET:
                    return outcome
        text = f"the model did not start within {_RESET_S:g} s; activate the policy again"
        failure = PolicyFailure(kind=Failure.MODEL_ERROR, text=text)
        return Outcome(request=_RESET, actions=None, failure=failure, seconds=_RESET_S)

    def close(self) -> None:
        """See :class:`policies.runtime.engine.Engine`."""
        self._inference.close(_CLOSE_S)
        if isinstance(self.policy.model, Connected):
            self.policy.model.close()

    def tick(self, observation: Observation) -> ActionChunk | None:
        """See :class:`policies.runtime.engine.Engine`."""
        if self.failure is not None:
            return None
        seen = self._origin_ns is not None and observation.stamp_ns == self._last_ns
        step = self._step(observation.stamp_ns)
        if not seen:
            try:
                self.policy.observe(observation, *self._in_force(observation, step))
            except InputError as error:
                self._fail(failure_of(error))
                return None
        fresh = self._take_answers(step)
        if self._ask(step):
            if self._took_s < self._dt_s:
                self._inference.wait(self._wait_s)
            fresh |= self._take_answers(step)
        course = None if self.failure else self._follow(observation, step, fresh)
        if course is None:
            return None
        at = min(step - course.start, len(course.commands) - 1)
        return self.policy.chunk(observation, course.commands[at:])

    def report(self) -> dict[str, Any]:
        """See :class:`policies.runtime.engine.Engine`."""
        return {
            "executor": self.config.executor,
            "answers": self._times.count,
            "inference_ms": self._times.summary(),
            "inference_total_s": self._total_s,
            "delay_steps": self._delays.summary(),
            "dropped_answers": self._dropped,
            "held_steps": self._held,
            "stalls": self._stalls,
            "failure": self.failure and self.failure.describe(),
        }

    # ---- inside -------------------------------------------------------------------------------

    def _step(self, stamp_ns: int) -> int:
        if self._origin_ns is None or stamp_ns < self._last_ns:  # the clock was set back
            self._origin_ns = stamp_ns
            self._restart()
        self._last_ns = stamp_ns
        return round((stamp_ns - self._origin_ns) / (self._dt_s * NS))

    def _in_force(self, observation: Observation, step: int) -> tuple[Float, Float]:
        """Command and speed at ``step``; a course that ran out has stopped at its last command."""
        if self._course is None:
            return self.policy.at_rest(observation)
        at = step - self._course.start
        last = min(at, len(self._course.commands) - 1)
        return self._course.commands[last], self._course.speeds[last] * float(at == last)

    def _ask(self, step: int) -> bool:
        if self.failure is not None or self._inference.busy:
            return False
        request = self._executor.request(step)
        if request is None:
            return False
        self._asked[request.id] = step
        if self._waiting_since is None:
            self._waiting_since = step
        window = self.policy.window()
        self._inference.submit(request.id, lambda: self._evaluate(request, window))
        return True

    def _evaluate(self, request: Request, window: Window) -> Float:
        actions = np.asarray(
            self.policy.model.sample(window, executed=request.executed, prefix=request.prefix)
        )
        if actions.shape != self._shape or not np.isfinite(actions).all():
            what = "values that are not finite" if actions.shape == self._shape else actions.shape
            raise PolicyFailureError(
                Failure.BAD_ANSWER,
                f"model {self.policy.spec.name!r}: expected finite actions of shape {self._shape}, "
                f"got {what}; check the model",
            )
        return actions.astype(np.float64)

    def _take_answers(self, step: int) -> bool:
        """Hand what has come to the executor; True if there is a new plan."""
        for outcome in self._inference.poll():
            if outcome.request == _RESET:
                continue
            if outcome.actions is None:  # also of a request that was given up meanwhile
                assert outcome.failure is not None
                self._fail(outcome.failure)
                return False
            asked = self._asked.get(outcome.request)
            if asked is None:
                self._dropped += 1
                continue
            self._took_s = outcome.seconds
            self._times.add(outcome.seconds * 1e3)
            self._total_s += outcome.seconds
            self._delay.put(outcome.request, outcome.actions, asked)
        fresh = False
        for request, actions in self._delay.due(step):
            asked = self._asked.pop(request)
            if self._executor.reply(request, actions, step):
                fresh, self._waiting_since = True, min(self._asked.values(), default=None)
                self._delays.add(step - asked)
            else:
                self._dropped += 1
        return fresh

    def _follow(self, observation: Observation, step: int, fresh: bool) -> _Course | None:
        course = self._course
        command, speed = self._in_force(observation, step)
        planned = self._executor.upcoming(step)
        if planned is not None:
            if fresh or course is None or course.stopping:
                commands, speeds = self.policy.decode(planned[0], observation, command, speed)
                course = _Course(start=step, commands=commands, speeds=speeds, stopping=False)
        elif course is None and not self.config.lockstep:
            return None  # before the first answer nothing moves
        elif self._overdue(step):
            self._stalls += 1
            self._restart()
            return None
        else:
            self._held += 1
            if course is None or not course.stopping:
                steps = self._shape[1]
                commands, speeds = self.policy.stop(observation, command, speed, steps)
                course = _Course(start=step, commands=commands, speeds=speeds, stopping=True)
        self._course = course
        return course

    def _overdue(self, step: int) -> bool:
        since = self._waiting_since
        return since is None or (step - since) * self._dt_s > self.config.deadline_s

    def _fail(self, failure: PolicyFailure) -> None:
        self._restart()
        self.failure = failure
