"""Executors of action chunks: receding horizon, temporal ensembling, asynchronous chunks.

All follow :class:`policies.runtime.action_queue.Executor`. They differ in what happens between an
observation and the answer to it: :class:`RecedingHorizon` waits, :class:`AsyncChunks` goes on with
the plan it has, :class:`TemporalEnsemble` averages whatever plans it has for a step.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from policies.diffusion.interface import Prefix
from policies.errors import InputError
from policies.interface import Float
from policies.runtime.action_queue import Executor, Hold, Plan, Request

EXECUTORS = ("receding", "ensemble", "async", "rtc")
PATIENCE = 50
_DELAYS_REMEMBERED = 10


def soft_mask(horizon: int, delay: int, overlap: int) -> Float:
    """How far each step of a new chunk is bound to the running plan (Black et al. 2025, eq. 5).

    1 for the steps that will have been executed when the answer comes, then an exponential decay
    to 0 at the end of the running plan.

    Args:
        horizon: steps of a chunk, T.
        delay: steps until the answer comes.
        overlap: steps that the running plan still has.

    Returns:
        Weights within [0, 1], never growing, (T,).
    """
    overlap = min(overlap, horizon)
    delay = min(delay, overlap)
    step = np.arange(horizon)
    left = np.clip((overlap - step) / (overlap - delay + 1), 0.0, 1.0)
    decay = left * np.expm1(left) / math.expm1(1.0)
    weights: Float = np.where(step < delay, 1.0, np.where(step < overlap, decay, 0.0))
    return weights


class _Requests:
    """What the executors share that follow one plan: the requests under way, and the plan."""

    def __init__(self, hold: Hold, patience: int) -> None:
        self._hold = hold
        self._patience = _positive("patience", patience)
        self._next_id = 0
        self.reset()

    def reset(self) -> None:
        """Forget plan, requests and last action."""
        self._under_way: dict[int, Request] = {}
        self._plan: Plan | None = None
        self._last: Float | None = None

    def _waits(self, step: int, in_flight: int = 1) -> bool:
        """True while there is no room for a request; those that were in vain are given up."""
        self._under_way = {
            request.id: request
            for request in self._under_way.values()
            if step < request.step + self._patience
        }
        return len(self._under_way) >= in_flight

    def _ask(self, step: int, executed: int, prefix: Prefix | None = None) -> Request:
        request = Request(id=self._next_id, step=step, executed=executed, prefix=prefix)
        self._next_id += 1
        self._under_way[request.id] = request
        return request

    def _accept(self, request: int) -> Request | None:
        """The request of this id, if it is under way; those before it are overtaken."""
        asked = self._under_way.pop(request, None)
        if asked is not None:
            self._under_way = {id_: one for id_, one in self._under_way.items() if id_ > request}
        return asked

    def upcoming(self, step: int) -> Float | None:
        """What is left of the plan, see :meth:`policies.runtime.action_queue.Executor.upcoming`."""
        plan = self._plan
        if plan is None or not plan.start <= step < plan.end:
            return None
        return plan.actions[..., step - plan.start :, :]

    def _send(self, planned: Float | None) -> Float:
        self._last = self._hold.after(self._last) if planned is None else planned
        return self._last


class RecedingHorizon(_Requests):
    """Ask, wait, execute the first actions of the answer, ask again.

    While the answer is under way the robot holds; the answer is executed from its first action
    on, whenever it comes. With a delay the robot stops and goes.
    """

    def __init__(self, action_horizon: int, hold: Hold, *, patience: int = PATIENCE) -> None:
        """Make one.

        Args:
            action_horizon: actions of each chunk that are executed.
            hold: what is sent while there is no plan.
            patience: steps after which a request is given up and made again.
        """
        self._horizon = _positive("action_horizon", action_horizon)
        super().__init__(hold, patience)

    def request(self, step: int) -> Request | None:
        """Ask when the last answer has been used up."""
        if self._waits(step) or (self._plan and step < self._plan.end):
            return None
        if self._plan is None:
            return self._ask(step, 0)
        return self._ask(step, int(self._plan.actions.shape[-2]))

    def reply(self, request: int, actions: Float, step: int) -> bool:
        """Take the answer to the request under way; it begins now."""
        if self._accept(request) is None:
            return False
        self._plan = Plan(request=request, start=step, actions=actions[..., : self._horizon, :])
        self._beyond = actions[..., self._horizon :, :]
        return True

    def upcoming(self, step: int) -> Float | None:
        """What is left of the plan, and the actions beyond its last step that it would lead to."""
        left = super().upcoming(step)
        return None if left is None else np.concatenate([left, self._beyond], axis=-2)

    def action(self, step: int) -> Float:
        """The plan's action, or hold."""
        return self._send(self._plan.at(step) if self._plan else None)


class AsyncChunks(_Requests):
    """Go on with the running plan while the next chunk is computed.

    An answer belongs to the step at which it was asked for: the steps that passed since then are
    skipped. ``guided``: real-time chunking, the model is given the running plan and continues it.
    Otherwise it answers freely, and where two plans disagree the robot jumps from one to the
    other: the baseline that real-time chunking has to beat.
    """

    def __init__(
        self,
        action_horizon: int,
        hold: Hold,
        *,
        guided: bool,
        expected_delay: int = 0,
        in_flight: int = 1,
        fade: int | None = None,
        patience: int = PATIENCE,
    ) -> None:
        """Make one.

        Args:
            action_horizon: steps from one request to the next.
            hold: what is sent while there is no plan.
            guided: give the model the running plan.
            expected_delay: steps until an answer comes, before any has come.
            in_flight: requests that may be under way, once the first answer has come.
            fade: steps beyond the delay over which the bond to the running plan fades; None for
                all that it has.
            patience: steps after which a request is given up and made again.
        """
        self._horizon = _positive("action_horizon", action_horizon)
        self._in_flight = _positive("in_flight", in_flight)
        self._guided = guided
        for name, steps in (("expected_delay", expected_delay), ("fade", fade or 0)):
            if steps < 0:
                raise InputError(f"{name}: expected 0 or more steps, got {steps}")
        self._expected_delay, self._fade = expected_delay, fade
        super().__init__(hold, patience)

    def reset(self) -> None:
        """Forget plan, requests, last action and the delays seen."""
        super().reset()
        self._moved_on = 0  # step up to which the model knows what was executed
        # The largest of the last: a prefix that is too short breaks continuity.
        self._delays = deque([self._expected_delay], maxlen=_DELAYS_REMEMBERED)

    def request(self, step: int) -> Request | None:
        """Ask every ``action_horizon`` steps, or as soon as there is room for a request."""
        plan = self._plan
        if self._waits(step, self._in_flight if plan else 1):
            return None
        if plan is None:
            return self._ask(step, 0)
        if step < self._moved_on + self._horizon:
            return None
        executed, self._moved_on = step - self._moved_on, step
        return self._ask(step, executed, self._prefix(plan, step))

    def _prefix(self, plan: Plan, step: int) -> Prefix | None:
        """The running plan, as far as the next one is bound to it."""
        left, delay = plan.end - step, max(self._delays)
        if not self._guided or left <= 0:
            return None
        if self._fade is not None:
            left = min(left, delay + self._fade)
        weights = soft_mask(plan.actions.shape[-2], delay, left)
        return Prefix(actions=plan.from_step(step), weights=weights)

    def reply(self, request: int, actions: Float, step: int) -> bool:
        """Take an answer, unless a newer one has come or all of it lies in the past."""
        asked = self._accept(request)
        if asked is None:
            return False
        self._delays.append(step - asked.step)
        start = asked.step
        if self._plan is None:
            # Before the first answer the robot has stood still, so nothing of it has passed.
            start = self._moved_on = step
        plan = Plan(request=request, start=start, actions=actions)
        if plan.end <= step:
            return False
        self._plan = plan
        return True

    def action(self, step: int) -> Float:
        """The running plan's action, or hold."""
        return self._send(self._plan.at(step) if self._plan else None)


class TemporalEnsemble:
    """Ask often, and average all plans for a step (Zhao et al. 2023).

    Weights are exp(-decay i), i = 0 for the oldest plan, so a larger decay trusts old plans more.
    Several requests may be under way.
    """

    def __init__(self, hold: Hold, *, every: int = 1, decay: float = 0.01) -> None:
        """Make one.

        Args:
            hold: what is sent while there is no plan.
            every: steps from one request to the next.
            decay: see above; 0 averages evenly.
        """
        self._every = _positive("every", every)
        self._decay = decay
        self._hold = hold
        self._next_id = 0
        self.reset()

    def reset(self) -> None:
        """Forget plans, requests and the last action."""
        self._pending: dict[int, int] = {}
        self._plans: list[Plan] = []
        self._asked: int | None = None
        self._last: Float | None = None

    def request(self, step: int) -> Request | None:
        """Ask every so many steps."""
        if self._asked is not None and step < self._asked + self._every:
            return None
        executed = 0 if self._asked is None else step - self._asked
        request = Request(id=self._next_id, step=step, executed=executed)
        self._next_id += 1
        self._asked = step
        self._pending[request.id] = step
        return request

    def reply(self, request: int, actions: Float, step: int) -> bool:
        """Take an answer, unless a newer one has come or all of it lies in the past."""
        asked = self._pending.pop(request, None)
        if asked is None:
            return False
        # Answers to older requests are overtaken: whoever brings them later is dropped.
        self._pending = {id_: at for id_, at in self._pending.items() if id_ > request}
        plan = Plan(request=request, start=asked, actions=actions)
        if plan.end <= step:
            return False
        self._plans.append(plan)
        return True

    def action(self, step: int) -> Float:
        """Weighted mean of the plans' actions, or hold."""
        self._plans = [plan for plan in self._plans if plan.end > step]
        mean = self._mean(step)
        self._last = self._hold.after(self._last) if mean is None else mean
        return self._last

    def upcoming(self, step: int) -> Float | None:
        """Weighted means of the plans' actions, as far as any of them reaches."""
        self._plans = [plan for plan in self._plans if plan.end > step]
        end = max((plan.end for plan in self._plans), default=step)
        means = [mean for at in range(step, end) if (mean := self._mean(at)) is not None]
        return np.stack(means, axis=-2) if means else None

    def _mean(self, step: int) -> Float | None:
        planned = [action for plan in self._plans if (action := plan.at(step)) is not None]
        if not planned:
            return None
        weights = np.exp(-self._decay * np.arange(len(planned)))
        mean: Float = np.tensordot(weights / weights.sum(), np.stack(planned), axes=1)
        return mean


def make_executor(
    name: str,
    *,
    action_horizon: int,
    hold: Hold,
    expected_delay: int = 0,
    in_flight: int = 1,
    fade: int | None = None,
    decay: float = 0.01,
) -> Executor:
    """Executor by its name on the command line.

    Args:
        name: one of :data:`EXECUTORS`: ``receding`` waits for each answer, ``ensemble`` averages
            plans, ``async`` swaps plans, ``rtc`` has the model continue the running plan.
        action_horizon: actions from one request to the next (``ensemble`` asks at every step).
        hold: what is sent while there is no plan.
        expected_delay: steps until an answer comes, for ``rtc``.
        in_flight: requests that may be under way at a time, for ``async`` and ``rtc``.
        fade: see :class:`AsyncChunks`, for ``rtc``.
        decay: of the weights of ``ensemble``.

    Raises:
        InputError: no executor of that name.
    """
    if (in_flight != 1 and name not in ("async", "rtc")) or (fade is not None and name != "rtc"):
        raise InputError(
            "executor: expected async or rtc for more than one request under way, and rtc for a "
            f"fading bond, got {name!r}"
        )
    if name == "receding":
        return RecedingHorizon(action_horizon, hold)
    if name == "ensemble":
        return TemporalEnsemble(hold, decay=decay)
    if name in ("async", "rtc"):
        return AsyncChunks(
            action_horizon,
            hold,
            guided=name == "rtc",
            expected_delay=expected_delay,
            in_flight=in_flight,
            fade=fade,
        )
    raise InputError(f"executor: expected one out of {list(EXECUTORS)}, got {name!r}")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name}: expected at least 1 step, got {value}")
    return value
