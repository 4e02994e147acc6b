"""Executors, the counted delay and up-sampling: properties that hold for any sequence of answers.

The model of these tests answers a request at step t with actions (request id, step they are for),
so that each action that is sent says where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from policies.runtime.action_queue import Executor, Hold, Plan, Request
from policies.runtime.execution import (
    EXECUTORS,
    AsyncChunks,
    RecedingHorizon,
    TemporalEnsemble,
    make_executor,
    soft_mask,
)
from policies.runtime.inference_delay import InferenceDelay
from policies.runtime.upsampling import Upsampler

HOLD = Hold(rest=(-1.0, -1.0), keep=(False, True))
HORIZON = 8


def labelled(request: Request, horizon: int = HORIZON) -> np.ndarray:
    steps = request.step + np.arange(horizon, dtype=np.float64)
    return np.stack([np.full(horizon, float(request.id)), steps], axis=-1)


@dataclass
class Log:
    actions: list = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)  # request -> step of its answer
    refused: set[int] = field(default_factory=set)


def drive(executor: Executor, steps: int, delay, horizon: int = HORIZON) -> Log:
    """Run an executor; ``delay(request)`` is the delay of an answer, None if it is lost."""
    log, under_way = Log(), []

    def deliver(step: int) -> None:
        for entry in [entry for entry in under_way if entry[0] == step]:
            under_way.remove(entry)
            if executor.reply(entry[1].id, labelled(entry[1], horizon), step):
                log.taken[entry[1].id] = step
            else:
                log.refused.add(entry[1].id)

    for step in range(steps):
        deliver(step)
        request = executor.request(step)
        if request is not None:
            log.requests.append(request)
            late = delay(request)
            if late is not None:
                under_way.append((step + late, request))
        deliver(step)
        log.actions.append(executor.action(step))
    return log


def make(name: str, action_horizon: int = 4) -> Executor:
    return make_executor(name, action_horizon=action_horizon, hold=HOLD)


delays = st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=60, max_size=60)


# ---- what holds for all of them ----------------------------------------------------------------


@given(name=st.sampled_from(EXECUTORS), late=delays, horizon=st.integers(1, 8))
def test_every_step_gets_one_action_of_an_answer_that_was_taken(name, late, horizon):
    executor = make(name, horizon)
    log = drive(executor, 60, lambda request: late[request.id % 60])
    assert len(log.actions) == 60
    assert len({request.id for request in log.requests}) == len(log.requests)
    assert log.refused.isdisjoint(log.taken)
    for step, action in enumerate(log.actions):
        assert action.shape == (2,)
        if name == "ensemble" or action[0] == -1.0:
            continue
        source = int(action[0])
        assert log.taken[source] <= step
        if name in ("async", "rtc") and source != min(log.taken):
            assert action[1] == step  # the action is for the step at which it is sent


@given(name=st.sampled_from(EXECUTORS), horizon=st.integers(1, 8))
def test_without_delay_no_step_is_without_a_plan(name, horizon):
    log = drive(make(name, horizon), 40, lambda _: 0)
    sent = np.array(log.actions)
    np.testing.assert_allclose(sent[:, 1], np.arange(40))
    asked = [request.step for request in log.requests]
    assert asked == list(range(0, 40, 1 if name == "ensemble" else horizon))
    if name != "ensemble":
        np.testing.assert_array_equal(sent[:, 0], np.arange(40) // horizon)


@given(name=st.sampled_from(EXECUTORS), delay=st.integers(0, 6))
def test_the_first_answer_starts_the_motion(name, delay):
    log = drive(make(name), 30, lambda _: delay)
    holding = [action[0] == -1.0 for action in log.actions]
    assert holding[:delay] == [True] * delay
    assert not holding[delay]


@pytest.mark.parametrize("name", EXECUTORS)
def test_answers_from_before_a_reset_are_dropped(name):
    executor = make(name)
    before = executor.request(0)
    executor.reset()
    after = executor.request(0)
    assert after.id != before.id
    assert not executor.reply(before.id, labelled(before), 0)
    np.testing.assert_array_equal(executor.action(0), HOLD.rest)
    assert executor.reply(after.id, labelled(after), 1)


@pytest.mark.parametrize("name", EXECUTORS)
def test_batches_go_in_step(name):
    executor = make(name)
    offset = np.array([0.0, 100.0])[:, None, None]
    for step in range(20):
        request = executor.request(step)
        if request is not None:
            assert executor.reply(request.id, labelled(request) + offset, step)
        action = executor.action(step)
        np.testing.assert_allclose(action[1], action[0] + 100.0)


@pytest.mark.parametrize("name", ["receding", "async", "rtc"])
def test_a_lost_answer_is_asked_for_again_and_dropped_when_it_comes(name):
    kind = {"receding": RecedingHorizon}.get(name, AsyncChunks)
    more = {} if name == "receding" else {"guided": name == "rtc"}
    executor = kind(4, HOLD, patience=5, **more)
    first = executor.request(0)
    assert [executor.request(step) for step in range(1, 5)] == [None] * 4
    second = executor.request(5)
    assert not executor.reply(first.id, labelled(first), 6)
    np.testing.assert_array_equal(executor.action(6), HOLD.rest)
    assert executor.reply(second.id, labelled(second), 7)
    assert not executor.reply(second.id, labelled(second), 7)
    assert executor.action(7)[0] == second.id


def test_hold_keeps_what_is_to_be_kept():
    np.testing.assert_array_equal(HOLD.after(None), [-1.0, -1.0])
    np.testing.assert_array_equal(HOLD.after(np.array([3.0, 4.0])), [-1.0, 4.0])
    with pytest.raises(InputError, match="keep"):
        Hold(rest=(0.0,), keep=(True, False))


# ---- receding horizon --------------------------------------------------------------------------


@given(delay=st.integers(0, 6), horizon=st.integers(1, 8))
def test_receding_horizon_stops_and_goes(delay, horizon):
    log = drive(RecedingHorizon(horizon, HOLD), 50, lambda _: delay)
    cycle = delay + horizon
    for step, action in enumerate(log.actions):
        position = step % cycle
        if position < delay:
            assert action[0] == -1.0
        else:  # the answer is executed from its first action on
            assert action[0] == step // cycle
            assert action[1] == step - position + position - delay
    assert all(request.executed == (horizon if request.id else 0) for request in log.requests)


# ---- asynchronous chunks -----------------------------------------------------------------------


@given(delay=st.integers(0, 4), guided=st.booleans())
def test_async_never_stops_once_it_moves(delay, guided):
    log = drive(AsyncChunks(4, HOLD, guided=guided), 60, lambda _: delay)
    sent = np.array(log.actions)[delay:, 1]
    # The first plan was asked for at step 0 and begins at step ``delay``; later ones are on time.
    first = delay + 4 + delay
    np.testing.assert_array_equal(sent[: first - delay], np.arange(first - delay))
    np.testing.assert_array_equal(sent[first - delay :], np.arange(first, 60))


@given(delay=st.integers(0, 4))
def test_prefix_is_the_running_plan_moved_to_now(delay):
    executor = AsyncChunks(4, HOLD, guided=True, expected_delay=delay)
    log = drive(executor, 60, lambda _: delay)
    assert log.requests[0].prefix is None
    for before, request in zip(log.requests[1:], log.requests[2:], strict=False):
        prefix = request.prefix
        left = HORIZON - (request.step - before.step)
        expected = request.step + np.arange(left)
        np.testing.assert_array_equal(prefix.actions[:left, 1], expected)
        np.testing.assert_array_equal(prefix.weights[:delay], 1.0)
        np.testing.assert_array_equal(prefix.weights[left:], 0.0)
        assert request.executed == request.step - before.step
    # What is bound with weight 1 is what is sent until the answer comes.
    for request in log.requests[1:]:
        for k in range(min(delay, 59 - request.step)):
            np.testing.assert_array_equal(log.actions[request.step + k], request.prefix.actions[k])


@given(delay=st.integers(0, 6), every=st.integers(1, 4), in_flight=st.integers(1, 6))
def test_more_requests_under_way_act_on_newer_observations(delay, every, in_flight):
    executor = AsyncChunks(every, HOLD, guided=True, in_flight=in_flight, expected_delay=delay)
    log = drive(executor, 60, lambda _: delay, horizon=16)
    asked = np.array([request.step for request in log.requests])
    assert asked[1] == delay + every  # one at a time until the first answer has come
    age = []
    for step in range(2 * (delay + every) + delay, 60):
        source = next(r for r in log.requests if r.id == int(log.actions[step][0]))
        age.append(step - source.step)
        assert log.actions[step][1] == step
        open_ = [r for r in log.requests if r.step < step < log.taken.get(r.id, 99)]
        assert len(open_) <= in_flight
    if in_flight * every >= delay:
        assert max(age) < delay + every
    # A model with a rolling plan is told of each step once.
    assert sum(r.executed for r in log.requests) == asked[-1] - delay


def test_an_answer_that_a_newer_one_overtook_is_dropped():
    executor = AsyncChunks(1, HOLD, guided=False, in_flight=3)
    first = executor.request(0)
    assert executor.reply(first.id, labelled(first), 0)
    second, third = executor.request(1), executor.request(2)
    assert executor.reply(third.id, labelled(third), 3)
    assert not executor.reply(second.id, labelled(second), 3)
    assert executor.action(3)[0] == third.id


@pytest.mark.parametrize(("fade", "free"), [(0, 2), (1, 3), (None, 6)])
def test_the_bond_to_the_running_plan_fades_as_soon_as_wanted(fade, free):
    executor = AsyncChunks(2, HOLD, guided=True, expected_delay=2, fade=fade)
    log = drive(executor, 20, lambda _: 2)
    weights = log.requests[3].prefix.weights
    np.testing.assert_array_equal(weights[:2], 1.0)
    assert np.all(weights[:free] > 0.0)
    np.testing.assert_array_equal(weights[free:], 0.0)


def test_naive_async_gives_no_prefix():
    log = drive(AsyncChunks(4, HOLD, guided=False), 40, lambda _: 2)
    assert all(request.prefix is None for request in log.requests)


def test_prefix_is_as_long_as_the_largest_recent_delay():
    executor = AsyncChunks(4, HOLD, guided=True)
    late = {0: 0, 1: 3}
    log = drive(executor, 80, lambda request: late.get(request.id, 1))
    frozen = [int((request.prefix.weights == 1.0).sum()) for request in log.requests[1:]]
    assert frozen[:4] == [0, 3, 3, 3]
    assert frozen[-1] == 1  # and forgets it in time


def test_an_answer_that_comes_after_its_own_end_is_dropped():
    executor = AsyncChunks(4, HOLD, guided=True)
    first = executor.request(0)
    assert executor.reply(first.id, labelled(first), 0)
    second = executor.request(4)
    assert not executor.reply(second.id, labelled(second), 4 + HORIZON)
    np.testing.assert_array_equal(executor.action(4 + HORIZON), HOLD.rest)
    assert executor.request(4 + HORIZON) is not None


@given(st.integers(1, 32), st.integers(0, 40), st.integers(0, 40))
def test_soft_mask_falls_from_one_to_nothing(horizon, delay, overlap):
    weights = soft_mask(horizon, delay, overlap)
    assert weights.shape == (horizon,)
    assert ((weights >= 0.0) & (weights <= 1.0)).all()
    assert (np.diff(weights) <= 1e-12).all()
    kept = min(horizon, overlap)
    assert (weights[: min(delay, kept)] == 1.0).all()
    assert (weights[kept:] == 0.0).all()
    assert (weights[min(delay, kept) : kept] < 1.0).all()


# ---- temporal ensembling -----------------------------------------------------------------------


@given(decay=st.floats(0.0, 2.0), delay=st.integers(0, 3))
def test_ensemble_is_the_weighted_mean_of_all_plans_for_a_step(decay, delay):
    executor = TemporalEnsemble(HOLD, decay=decay)
    log = drive(executor, 40, lambda _: delay)
    for step in range(20, 40):
        newest = step - delay  # one request a step, so ids are steps
        ids = np.arange(step - HORIZON + 1, newest + 1)
        weights = np.exp(-decay * np.arange(len(ids)))
        np.testing.assert_allclose(log.actions[step][0], np.average(ids, weights=weights))
        np.testing.assert_allclose(log.actions[step][1], step)


def test_ensemble_drops_answers_that_were_overtaken():
    executor = TemporalEnsemble(HOLD)
    first, second = executor.request(0), executor.request(1)
    assert executor.reply(second.id, labelled(second), 2)
    assert not executor.reply(first.id, labelled(first), 2)
    assert executor.action(2)[0] == second.id


# ---- parts -------------------------------------------------------------------------------------


@given(steps=st.integers(0, 8), asked=st.sets(st.integers(0, 30)))
def test_delay_is_counted_in_steps_and_keeps_the_order(steps, asked):
    line, come = InferenceDelay(steps), []
    for step in range(40):
        if step in asked:
            line.put(step, np.array([[float(step)]]), step)
        come += [(step, *answer) for answer in line.due(step)]
    assert [(at, request) for at, request, _ in come] == [(a + steps, a) for a in sorted(asked)]
    assert all(actions[0, 0] == request for _, request, actions in come)


def test_delay_forgets_on_reset_and_refuses_a_negative_one():
    line = InferenceDelay(1)
    line.put(0, np.zeros((1, 1)), 0)
    line.reset()
    assert line.due(5) == []
    with pytest.raises(InputError, match="-1"):
        InferenceDelay(-1)


@given(
    actions=st.lists(st.floats(-10, 10), min_size=2, max_size=20),
    ratio=st.integers(1, 10),
)
def test_linear_upsampling_passes_through_each_action_evenly(actions, ratio):
    upsampler = Upsampler(ratio)
    commands = np.concatenate([upsampler.commands(np.array([a])) for a in actions])
    assert commands.shape == (ratio * len(actions), 1)
    np.testing.assert_allclose(commands[ratio - 1 :: ratio, 0], actions, atol=1e-12)
    jumps = np.diff(commands[ratio - 1 :, 0]).reshape(-1, ratio)
    expected = np.repeat(np.diff(actions)[:, None] / ratio, ratio, axis=1)
    np.testing.assert_allclose(jumps, expected, atol=1e-9)


def test_held_upsampling_repeats_and_reset_forgets():
    upsampler = Upsampler(3, "hold")
    upsampler.commands(np.array([1.0]))
    np.testing.assert_array_equal(upsampler.commands(np.array([2.0]))[:, 0], [2.0] * 3)
    linear = Upsampler(2)
    linear.commands(np.array([[1.0], [3.0]]))
    np.testing.assert_array_equal(linear.commands(np.array([[2.0], [4.0]]))[0], [[1.5], [3.5]])
    linear.reset()
    np.testing.assert_array_equal(linear.commands(np.array([9.0])), [[9.0], [9.0]])


def test_plan_knows_its_steps():
    plan = Plan(request=0, start=3, actions=np.arange(8.0).reshape(4, 2))
    assert plan.end == 7
    assert plan.at(2) is None
    assert plan.at(7) is None
    np.testing.assert_array_equal(plan.at(3), [0.0, 1.0])
    np.testing.assert_array_equal(plan.from_step(5), [[4, 5], [6, 7], [0, 0], [0, 0]])
    assert plan.from_step(9).any() == np.False_


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: make("eager"), "eager"),
        (lambda: make("rtc", 0), "action_horizon"),
        (lambda: RecedingHorizon(4, HOLD, patience=0), "patience"),
        (lambda: AsyncChunks(4, HOLD, guided=True, expected_delay=-1), "expected_delay"),
        (lambda: AsyncChunks(4, HOLD, guided=True, fade=-1), "fade"),
        (lambda: AsyncChunks(4, HOLD, guided=True, in_flight=0), "in_flight"),
        (lambda: TemporalEnsemble(HOLD, every=0), "every"),
        (lambda: Upsampler(0), "ratio"),
    ],
)
def test_impossible_settings_are_refused(call, named):
    with pytest.raises(InputError, match=named):
        call()
