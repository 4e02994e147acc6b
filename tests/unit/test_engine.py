"""The engine: an observation in, commands out, whatever the model does meanwhile.

The arm of these tests has one joint; its model answers a request at step t with the steps
t, t + 1, ... in hundredths of a radian, so that each command says for which step it was meant.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import policies
from policies.checkpoint import load_policy
from policies.diffusion.interface import ChunkSpec, Window
from policies.errors import InputError
from policies.interface import ActionChunk, Observation
from policies.robots import PANDA
from policies.runtime.engine import DirectEngine, PlanEngine, make_engine
from policies.runtime.execution import EXECUTORS
from policies.runtime.failure import Failure, PolicyFailureError
from policies.runtime.inference import InlineInference, ThreadedInference, carry_out
from policies.runtime.planning import EngineConfig, PlanningPolicy

DT_NS = 20_000_000
HORIZON = 12


class Spec:
    name = "toy"


class Model:
    """Counts in hundredths from the step in its window."""

    def __init__(self):
        self.spec = ChunkSpec(
            name="toy",
            state_names=("step",),
            action_names=("position/a",),
            observation_horizon=1,
            prediction_horizon=HORIZON,
            action_horizon=4,
            rate_hz=50.0,
        )
        self.network_calls = 0
        self.asked: list[dict] = []
        self.resets: list[int] = []
        self.answer = lambda window: self.count(window)

    @staticmethod
    def count(window):
        return (window.state[:, -1:] + np.arange(HORIZON)[None, :, None]) / 100.0

    def reset(self, seed, batch=1):
        self.resets.append(seed)

    def sample(self, window, *, executed=0, prefix=None):
        self.asked.append({"executed": executed, "prefix": prefix})
        return self.answer(window)


class Arm:
    """Positions; stops where it is commanded to be, at once."""

    spec = Spec()

    def __init__(self):
        self.model = Model()
        self.reset(0)

    def reset(self, seed):
        self.model.reset(seed)
        self.seen = []

    def act(self, observation):
        raise AssertionError("the engine asks the model itself")

    def at_rest(self, observation):
        return observation.qpos_rad, np.zeros(1)

    def observe(self, observation, command, speed):
        if observation.goal is None:
            raise InputError("policy: expected goal in each observation, but it is missing")
        self.seen.append((observation.stamp_ns, command.copy(), speed.copy()))

    def window(self):
        return Window(state=np.array([[[self.seen[-1][0] / DT_NS]]]))

    def decode(self, actions, observation, command, speed):
        return actions, np.diff(actions, axis=0, prepend=command[None]) / 0.02

    def stop(self, observation, command, speed, steps):
        return np.repeat(command[None], steps, axis=0), np.zeros((steps, 1))

    def chunk(self, observation, commands):
        return ActionChunk(stamp_ns=observation.stamp_ns, dt_s=0.02, positions_rad=commands)


class Manual:
    """Inference that does a job when the test says so."""

    def __init__(self):
        self.jobs, self.done = [], []

    @property
    def busy(self):
        return bool(self.jobs)

    def submit(self, request, job):
        self.jobs.append((request, job))
        if request < 0:
            self.finish()

    def finish(self):
        self.done.append(carry_out(*self.jobs.pop(0)))

    def poll(self):
        done, self.done = self.done, []
        return done

    def wait(self, seconds):
        pass

    def close(self, seconds):
        return True


def seen_at(step, **changes):
    fields = {"qpos_rad": np.array([-1.0]), "goal": np.zeros(3), **changes}
    return Observation(stamp_ns=step * DT_NS, qvel_rad_s=np.zeros(1), **fields)


def engine_for(arm=None, inference=None, **config):
    engine = PlanEngine(arm or Arm(), EngineConfig(**config), inference)
    engine.reset(0)
    engine.policy.model.asked.clear()  # the start asks once by itself
    return engine


def first_commands(engine, steps):
    """First command of each step's chunk, NaN where there is none."""
    chunks = [engine.tick(seen_at(step)) for step in steps]
    return np.array([np.nan if c is None else c.positions_rad[0, 0] for c in chunks])


# ---- without delay -----------------------------------------------------------------------------


def test_toy_is_a_planning_policy():
    assert isinstance(Arm(), PlanningPolicy)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_answers_at_once_are_followed_step_by_step(executor):
    engine = engine_for(executor=executor, lockstep=True)
    assert_allclose(first_commands(engine, range(40)), np.arange(40) / 100.0)
    report = engine.report()
    assert report["executor"] == executor
    assert (report["held_steps"], report["stalls"], report["failure"]) == (0, 0, None)
    assert report["answers"] == (40 if executor == "ensemble" else 10)


def test_engine_without_delay_gives_the_answers_of_the_policy_itself():
    checkpoint = Path(policies.__file__).parent / "checkpoints" / "panda_reach"
    alone = load_policy(checkpoint, PANDA)
    alone.reset(3)
    engine = make_engine(load_policy(checkpoint, PANDA), EngineConfig(lockstep=True))
    engine.reset(3)
    qpos = PANDA.default_rad
    for step in range(30):
        observation = Observation(
            stamp_ns=step * DT_NS,
            qpos_rad=qpos,
            qvel_rad_s=np.zeros(7),
            goal=np.array([0.4, 0.2, 0.3]),
        )
        wanted, chunk = alone.act(observation), engine.tick(observation)
        assert_array_equal(chunk.positions_rad, wanted.positions_rad)
        qpos = wanted.positions_rad[1]
    assert np.abs(qpos - PANDA.default_rad).max() > 0.05


def test_instruction_of_the_newest_observation_reaches_the_model():
    policy = load_policy(Path(policies.__file__).parent / "checkpoints" / "panda_reach", PANDA)
    for told, instructions in ((None, ()), ("left", ("left",)), ("right", ("right",))):
        observation = Observation(
            stamp_ns=0,
            qpos_rad=PANDA.default_rad,
            qvel_rad_s=np.zeros(7),
            goal=np.zeros(3),
            instruction=told,
        )
        policy.observe(observation, *policy.at_rest(observation))
        assert policy.window().instructions == instructions


def test_each_chunk_tells_what_comes_next():
    """The guard interpolates along a chunk, and lives from it when a tick is late."""
    engine = engine_for(lockstep=True)
    lengths = []
    for step in range(12):
        chunk = engine.tick(seen_at(step))
        assert chunk.stamp_ns == step * DT_NS
        assert_allclose(
            chunk.positions_rad[:, 0], (step + np.arange(len(chunk.positions_rad))) / 100
        )
        lengths.append(len(chunk.positions_rad))
    assert lengths == [12, 11, 10, 9] * 3


def test_lockstep_does_not_depend_on_how_long_the_model_takes():
    arm = Arm()
    arm.model.answer = lambda window: (threading.Event().wait(0.03), arm.model.count(window))[1]
    engine = engine_for(arm, lockstep=True)
    assert_allclose(first_commands(engine, range(9)), np.arange(9) / 100.0)
    assert engine.report()["held_steps"] == 0


def test_skipped_ticks_are_skipped_in_the_plan():
    engine = engine_for(executor="async", lockstep=True)
    assert_allclose(first_commands(engine, (0, 1, 5, 6, 11)), [0.0, 0.01, 0.05, 0.06, 0.11])


# ---- delays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["async", "rtc", "ensemble"])
def test_counted_delay_leaves_no_gap_where_the_plan_covers_it(executor):
    engine = engine_for(executor=executor, inference_delay_steps=5, lockstep=True)
    commands = first_commands(engine, range(60))
    assert_allclose(commands[:5], -1.0)  # at rest until the first answer
    # The first plan starts when it comes; from the second answer on commands are for their step.
    assert_allclose(commands[17:], np.arange(17, 60) / 100.0)
    assert engine.report()["delay_steps"]["p50"] == 5.0
    assert engine.report()["held_steps"] == 5


def test_receding_horizon_stops_and_goes_under_a_delay():
    engine = engine_for(executor="receding", inference_delay_steps=5, lockstep=True)
    commands = first_commands(engine, range(60))
    assert engine.report()["held_steps"] == pytest.approx(60 * 5 / 9, abs=5)
    assert np.sum(np.diff(commands) == 0.0) >= 25


def test_real_time_chunking_gives_the_model_the_plan_it_must_continue():
    arm = Arm()
    engine = engine_for(arm, executor="rtc", inference_delay_steps=5, lockstep=True)
    first_commands(engine, range(30))
    assert arm.model.asked[0]["prefix"] is None
    for asked in arm.model.asked[1:]:
        prefix = asked["prefix"]
        assert_array_equal(prefix.weights[:5], 1.0)
        assert prefix.weights[-1] < 0.5
        held = prefix.weights > 0
        assert_allclose(np.diff(prefix.actions[0, held, 0]), 0.01)


def test_first_answer_in_real_time_moves_a_robot_that_waited_for_it():
    """A virtual robot repeats its first stamp until a command comes."""
    inference = Manual()
    engine = engine_for(inference=inference)
    assert engine.tick(seen_at(0)) is None
    assert engine.tick(seen_at(0)) is None
    inference.finish()
    assert_allclose(engine.tick(seen_at(0)).positions_rad[:2, 0], [0.0, 0.01])
    assert len(engine.policy.seen) == 1, "one observation, however often it is given"


def test_inference_under_way_is_not_asked_again():
    inference = Manual()
    engine = engine_for(inference=inference, executor="ensemble")
    first_commands(engine, range(5))
    assert len(inference.jobs) == 1


@settings(max_examples=150)
@given(
    executor=st.sampled_from(EXECUTORS),
    answers=st.lists(st.booleans(), min_size=120, max_size=120),
)
def test_silence_is_all_that_follows_an_overdue_answer(executor, answers):
    """At each step the model may finish or not; commands stay sane, and old."""
    inference = Manual()
    engine = engine_for(inference=inference, executor=executor, deadline_s=0.1)
    came_at = -100
    for step, finish in enumerate(answers):
        if finish and inference.jobs:
            inference.finish()
            came_at = step
        chunk = engine.tick(seen_at(step))
        if chunk is None:
            continue
        assert chunk.stamp_ns == step * DT_NS
        assert np.isfinite(chunk.positions_rad).all()
        assert chunk.positions_rad[0, 0] <= step / 100.0 + 1e-9
        # No command outlives the plan (12 steps from its request) and the deadline of the next.
        assert step - came_at <= HORIZON + 5 + 1


def test_stalled_model_ends_in_silence_and_a_new_answer_starts_at_the_robot():
    inference = Manual()
    arm = Arm()
    engine = engine_for(arm, inference=inference, executor="rtc", deadline_s=0.1)
    engine.tick(seen_at(0))
    inference.finish()
    commands = first_commands(engine, range(1, 40))  # asks at step 5, and is not answered
    spoken = np.flatnonzero(np.isfinite(commands))
    assert_array_equal(spoken, np.arange(len(spoken)))
    assert len(spoken) == HORIZON  # the deadline of 5 steps has passed when the plan runs out
    assert engine.report()["stalls"] == 1
    inference.finish()  # much too late: its request was given up
    assert engine.tick(seen_at(40)) is None
    assert engine.report()["dropped_answers"] == 1
    inference.finish()
    assert_allclose(engine.tick(seen_at(41)).positions_rad[0], 0.40)
    assert_allclose(arm.seen[-1][1], -1.0)  # the command in force was where the robot is


def test_failure_of_a_request_that_was_given_up_is_the_one_that_is_told():
    inference, arm = Manual(), Arm()
    engine = engine_for(arm, inference=inference, deadline_s=0.1)
    engine.tick(seen_at(0))
    inference.finish()
    first_commands(engine, range(1, 30))
    assert engine.report()["stalls"] == 1
    arm.model.answer = raising(PolicyFailureError(Failure.SERVER_SLOW, "no answer within 1 s"))
    inference.finish()
    assert engine.tick(seen_at(30)) is None
    assert engine.failure.kind is Failure.SERVER_SLOW


def test_clock_that_is_set_back_starts_a_new_plan():
    engine = engine_for(lockstep=True)
    first_commands(engine, range(50, 56))
    assert_allclose(first_commands(engine, range(10, 14)), np.arange(10, 14) / 100.0)


# ---- failures ----------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


def raising(error):
    def answer(window):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (raising(RuntimeError("shape mismatch\n in layer 3")), Failure.MODEL_ERROR),
        (raising(MemoryError()), Failure.OUT_OF_MEMORY),
        (raising(OutOfMemoryError("CUDA out of memory")), Failure.OUT_OF_MEMORY),
        (
            raising(RuntimeError("[ONNXRuntimeError] Failed to allocate memory")),
            Failure.OUT_OF_MEMORY,
        ),
        (raising(InputError("expected finite states")), Failure.BAD_OBSERVATION),
        (raising(PolicyFailureError(Failure.SERVER_LOST, "gone")), Failure.SERVER_LOST),
        (lambda window: np.full((1, HORIZON, 1), np.nan), Failure.BAD_ANSWER),
        (lambda window: np.zeros((1, HORIZON - 1, 1)), Failure.BAD_ANSWER),
        (lambda window: "forty-two", Failure.BAD_ANSWER),
    ],
)
@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "thread"])
def test_failure_of_the_model_is_named_and_silences_the_policy(answer, kind, lockstep):
    arm = Arm()
    engine = engine_for(arm, lockstep=lockstep)
    try:
        arm.model.answer = answer
        for _ in range(200):
            if engine.failure is not None:
                break
            assert engine.tick(seen_at(0)) is None
            threading.Event().wait(0.01)
        assert engine.failure.kind is kind
        assert "\n" not in engine.failure.text
        assert engine.report()["failure"] == {"kind": kind.value, "text": engine.failure.text}
        arm.model.answer = arm.model.count
        assert engine.tick(seen_at(1)) is None, "only a reset brings it back"
        engine.reset(1)
        assert engine.failure is None
        assert arm.model.resets[-1] == 1
    finally:
        engine.close()


def test_failed_model_is_not_asked_again():
    inference, arm = Manual(), Arm()
    engine = engine_for(arm, inference=inference)
    engine.tick(seen_at(0))
    arm.model.answer = raising(PolicyFailureError(Failure.BAD_ANSWER, "not a number"))
    inference.finish()
    assert engine.tick(seen_at(1)) is None
    assert engine.failure.kind is Failure.BAD_ANSWER
    assert not inference.jobs


def test_missing_part_of_an_observation_is_a_failure_with_its_name():
    engine = engine_for(lockstep=True)
    assert engine.tick(seen_at(0, goal=None)) is None
    assert engine.failure.kind is Failure.BAD_OBSERVATION
    assert "goal" in engine.failure.text


def test_model_that_cannot_start_says_so():
    arm = Arm()
    engine = PlanEngine(arm, EngineConfig())
    try:
        arm.model.answer = raising(RuntimeError("no kernel image"))
        with pytest.raises(PolicyFailureError, match="no kernel image"):
            engine.reset(0)
        assert engine.tick(seen_at(0)) is None
    finally:
        engine.close()


def test_answer_from_before_a_reset_is_not_used():
    inference = Manual()
    engine = engine_for(inference=inference)
    engine.tick(seen_at(0))
    inference.finish()
    engine.reset(0)
    assert engine.tick(seen_at(1)) is None
    inference.finish()
    assert_allclose(engine.tick(seen_at(2)).positions_rad[0], 0.01)


# ---- the thread --------------------------------------------------------------------------------


def test_tick_does_not_wait_for_a_model_that_takes_its_time():
    arm, go = Arm(), threading.Event()
    engine = engine_for(arm, executor="async")
    try:
        assert_allclose(first_while_waiting(engine, 0).positions_rad[0], 0.0)
        arm.model.answer = lambda window: (go.wait(30.0), arm.model.count(window))[1]
        # The model blocks from step 4 on, and the plan still reaches to step 11.
        assert_allclose(first_commands(engine, range(1, 12)), np.arange(1, 12) / 100.0)
        go.set()
        assert first_while_waiting(engine, 12) is not None
    finally:
        go.set()
        engine.close()


def first_while_waiting(engine, step):
    for _ in range(500):
        chunk = engine.tick(seen_at(step))
        if chunk is not None:
            return chunk
        threading.Event().wait(0.01)
    return None


def test_first_delay_that_is_expected_is_that_of_the_start():
    """Real-time chunking needs the delay before any has been seen."""
    arm = Arm()
    arm.model.answer = lambda window: (threading.Event().wait(0.07), arm.model.count(window))[1]
    reset = arm.model.reset  # connecting may take long, and says nothing of answers
    arm.model.reset = lambda seed, batch=1: (threading.Event().wait(0.3), reset(seed))[1]
    engine = PlanEngine(arm, EngineConfig(executor="rtc"))
    try:
        engine.reset(0)
        assert len(arm.model.resets) == 3  # made, reset, and once more after the first evaluation
        assert_array_equal(arm.model.asked.pop()["prefix"].weights, 0.0)
        arm.model.answer = arm.model.count
        for step in range(6):
            first_while_waiting(engine, step)
        prefix = next(a["prefix"] for a in arm.model.asked if a["prefix"] is not None)
        assert np.sum(prefix.weights == 1.0) >= 4
    finally:
        engine.close()


def test_inferences_do_one_job_at_a_time_and_tell_how_it_ended():
    for inference in (InlineInference(), ThreadedInference()):
        inference.submit(1, lambda: np.ones(2))
        inference.submit(2, lambda: raising(ValueError("bad"))(None))
        done = []
        for _ in range(100):
            inference.wait(0.1)
            done += inference.poll()
            if len(done) == 2:
                break
        assert [outcome.request for outcome in done] == [1, 2]
        assert_array_equal(done[0].actions, [1.0, 1.0])
        assert done[1].failure.text == "the model failed: ValueError: bad"
        assert not inference.busy
        assert inference.close(5.0)


def test_inference_gives_up_the_priority_of_the_loop_beside_it(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *a: asked.append((a[:2], thread_name())))

    def thread_name():
        return threading.current_thread().name

    inference = ThreadedInference()
    inference.submit(1, lambda: np.ones(2))
    inference.wait(30.0)
    assert inference.close(5.0)
    assert asked == [((0, os.SCHED_OTHER), "inference")]


# ---- policies that answer each observation -----------------------------------------------------


class Feedback:
    """A policy that does not plan."""

    spec = Spec()

    def __init__(self):
        self.error = None

    def reset(self, seed):
        self.seed = seed

    def act(self, observation):
        if self.error:
            raise self.error
        return ActionChunk(stamp_ns=observation.stamp_ns, dt_s=0.0, positions_rad=np.ones((1, 1)))


def test_feedback_policy_is_asked_at_every_tick_and_its_failure_is_named():
    policy = Feedback()
    engine = make_engine(policy, EngineConfig())
    assert isinstance(engine, DirectEngine)
    engine.reset(7)
    assert policy.seed == 7
    assert engine.tick(seen_at(0)).stamp_ns == 0
    policy.error = RuntimeError("broken")
    assert engine.tick(seen_at(1)) is None
    policy.error = None
    assert engine.tick(seen_at(2)) is None
    assert engine.report()["failure"]["kind"] == "model_error"
    assert engine.report()["answers"] == 1
    engine.reset(8)
    assert engine.tick(seen_at(3)) is not None
    engine.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"executor": "rtc"}, "--executor"),
        ({"action_horizon": 3}, "--action-horizon"),
        ({"inference_delay_steps": 2}, "--inference-delay"),
        ({"in_flight": 2}, "--in-flight"),
        ({"fade": 0}, "--fade"),
    ],
)
def test_options_of_plans_are_refused_for_a_policy_without_plans(config, words):
    with pytest.raises(InputError, match=words):
        make_engine(Feedback(), EngineConfig(**config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"executor": "magic"}, "executor"),
        ({"action_horizon": 13}, "at most the 12 actions"),
        ({"inference_delay_steps": -1}, "0 or more"),
        ({"inference_delay_steps": 16}, "deadline"),
        ({"executor": "rtc", "in_flight": 0}, "in_flight"),
        ({"executor": "rtc", "fade": -1}, "fade"),
        ({"executor": "receding", "in_flight": 2}, "async or rtc"),
        ({"executor": "async", "fade": 0}, "fading bond"),
    ],
)
def test_configuration_that_does_not_fit_the_policy_is_named(config, words):
    with pytest.raises(InputError, match=words):
        PlanEngine(Arm(), EngineConfig(lockstep=True, **config))


@pytest.mark.parametrize("config", [{"deadline_s": 0.0}, {"action_horizon": 0}])
def test_configuration_that_fits_no_policy_is_refused(config):
    with pytest.raises(InputError, match=next(iter(config))):
        EngineConfig(**config)
