"""Closed-loop evaluation: steps, delays, lost observations, names, figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.diffusion.interface import CameraSpec, ChunkModel, ChunkSpec
from policies.errors import InputError
from policies.evaluation.environment import Environment, EnvironmentSpec, Expert, Outcome, Seen
from policies.evaluation.evaluate import EvaluationConfig, evaluate, timing
from policies.evaluation.loop import FIRST_SEED, Answer, ExecutionConfig, run_batch, run_seeds
from policies.evaluation.metrics import jerk, largest_jump, percentiles, wilson
from policies.runtime.action_queue import Hold

SPEC = EnvironmentSpec(
    name="count",
    state_names=("step", "seed", "x"),
    action_names=("dx", "grip"),
    rate_hz=10.0,
    max_steps=30,
    hold=Hold(rest=(0.0, -1.0), keep=(False, True)),
    smooth=(True, False),
)
MODEL = ChunkSpec(
    name="counter",
    state_names=("x", "step"),
    action_names=("grip", "dx"),
    observation_horizon=3,
    prediction_horizon=8,
    action_horizon=4,
    rate_hz=10.0,
)


class Count:
    """Sums dx up; solved where x reaches the limit, failed below -1."""

    def __init__(self, limit: float = 1e9, size: int | None = None) -> None:
        self.spec, self.limit, self.size = SPEC, limit, size

    def reset(self, seed: int) -> Seen:
        self.steps, self.seed, self.x = 0, seed, 0.0
        return self._seen()

    def step(self, action: np.ndarray) -> Outcome:
        self.steps += 1
        self.x += action[0]
        return Outcome(seen=self._seen(), success=self.x >= self.limit, failure=self.x < -1.0)

    def _seen(self) -> Seen:
        images = {}
        if self.size:
            images["top"] = np.full((self.size, self.size, 3), self.steps, dtype=np.uint8)
        return Seen(state=np.array([self.steps, self.seed, self.x]), images=images)


class Labels:
    """Answers with the step that it saw in the gripper entry, and ``dx`` in the other."""

    def __init__(self, spec: ChunkSpec = MODEL, dx: float = 1.0) -> None:
        self.spec, self.dx, self.network_calls = spec, dx, 0
        self.windows, self.resets, self.executed, self.prefixes = [], [], [], []

    def reset(self, seed: int, batch: int = 1) -> None:
        self.resets.append((seed, batch))
        self.network_calls = 0

    def sample(self, window, *, executed=0, prefix=None) -> np.ndarray:
        self.network_calls += 2
        self.windows.append(window)
        self.executed.append(executed)
        self.prefixes.append(prefix)
        rows = []
        for state in window.state:
            seen = state[-1, self.spec.state_names.index("step")]
            steps = seen + np.arange(self.spec.prediction_horizon)
            rows.append(np.stack([steps, np.full(len(steps), self.dx)], axis=-1))
        return np.array(rows)


def run(model=None, rows=2, environment=Count, **execution):
    model = model or Labels()
    config = ExecutionConfig(**execution)
    seeds = list(range(7, 7 + rows))
    return model, *run_batch(model, [environment() for _ in seeds], seeds, config)


def test_the_doubles_are_what_the_protocols_ask_for():
    assert isinstance(Labels(), ChunkModel)
    assert isinstance(Count(), Environment)


# ---- the loop ----------------------------------------------------------------------------------


def test_names_decide_what_goes_where():
    model, runs, _ = run()
    np.testing.assert_array_equal(model.windows[1].state[0, :, 1], [2, 3, 4])  # step
    np.testing.assert_array_equal(model.windows[1].state[0, :, 0], [2, 3, 4])  # x, one a step
    np.testing.assert_array_equal(runs[0].actions[:, 0], 1.0)  # dx comes first here
    np.testing.assert_array_equal(runs[0].actions[:, 1], np.arange(30))
    assert [r.seed for r in runs] == [7, 8]
    np.testing.assert_array_equal(runs[1].states[:, 1], 8)


def test_the_first_observation_fills_the_window():
    model, *_ = run()
    np.testing.assert_array_equal(model.windows[0].state[:, :, 1], 0.0)
    assert model.resets == [(7, 2)]


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_receding_horizon_holds_while_it_waits(delay):
    _, runs, answers = run(delay_steps=delay)
    moved = runs[0].actions[:, 0]
    cycle = np.arange(30) % (4 + delay)
    np.testing.assert_array_equal(moved, cycle >= delay)
    # The gripper's entry rests at first, and keeps its value later on while the hand rests.
    gripper = runs[0].actions[:, 1]
    np.testing.assert_array_equal(gripper[:delay], -1.0)
    for step in np.flatnonzero(cycle < delay)[delay:]:
        assert gripper[step] == gripper[step - 1]
    assert [r.waited for r in runs] == [delay, delay]
    assert {a.network_calls for a in answers} == {2}
    assert sum(a.actions for a in answers) == 30


@pytest.mark.parametrize("delay", [0, 2, 4])
def test_async_executes_each_action_at_its_step(delay):
    model, runs, _ = run(executor="rtc", delay_steps=delay)
    np.testing.assert_array_equal(runs[0].actions[delay:, 0], 1.0)
    on_time = runs[0].actions[2 * delay + 4 :, 1]
    np.testing.assert_array_equal(on_time, np.arange(2 * delay + 4, 30))
    assert model.prefixes[0] is None
    for prefix in model.prefixes[1:]:
        assert prefix.actions.shape == (2, 8, 2)
        np.testing.assert_array_equal(prefix.weights[:delay], 1.0)


def test_streaming_models_are_told_what_was_executed():
    model, *_ = run(delay_steps=2)
    assert model.executed == [0, 4, 4, 4, 4]
    model, *_ = run(executor="ensemble")
    assert model.executed == [0] + [1] * 29


def test_lost_observations_leave_the_one_before():
    model, runs, _ = run(executor="ensemble", drop=0.4, rows=20)
    newest = np.array([window.state[:, -1, 1] for window in model.windows])  # (step, row)
    lost = newest[1:] == newest[:-1]
    assert 0.3 < lost.mean() < 0.5
    assert (lost.any(axis=0) & ~lost.all(axis=0)).all()
    assert (newest[1:][~lost] == (np.arange(1, 30)[:, None] * np.ones(20))[~lost]).all()
    assert all(len(r.actions) == 30 for r in runs)


def test_what_is_lost_in_a_run_does_not_depend_on_the_others():
    alone, *_ = run(rows=1, executor="ensemble", drop=0.4)
    among, *_ = run(rows=5, executor="ensemble", drop=0.4)
    for one, many in zip(alone.windows, among.windows, strict=True):
        np.testing.assert_array_equal(one.state[0], many.state[0])


def test_runs_end_by_themselves_and_are_reported_once():
    environments = [Count(5.0), Count(11.0), Count()]
    ended: list[int] = []
    runs, answers = run_batch(Labels(), environments, [0, 1, 2], ExecutionConfig(), ended.append)
    assert [len(r.actions) for r in runs] == [5, 11, 30]
    assert [r.success for r in runs] == [True, True, False]
    assert sum(ended) == 3
    assert len(answers) == 8
    (failed,), _ = run_batch(Labels(dx=-0.5), [Count()], [0], ExecutionConfig())
    assert (failed.success, failed.failure, len(failed.actions)) == (False, True, 3)


def test_images_reach_the_model():
    spec = replace(MODEL, cameras=(CameraSpec(name="top", height=8, width=8),))
    model, *_ = run(Labels(spec), environment=lambda: Count(size=8))
    images = model.windows[1].images["top"]
    assert images.shape == (2, 3, 8, 8, 3)
    np.testing.assert_array_equal(images[0, :, 0, 0, 0], [2, 3, 4])


@pytest.mark.parametrize(
    ("spec", "environment", "named"),
    [
        (replace(MODEL, state_names=("x", "z")), Count, r"state entries \['z'\]"),
        (replace(MODEL, action_names=("dx", "dy")), Count, "dy"),
        (replace(MODEL, rate_hz=20.0), Count, "20 Hz"),
        (replace(MODEL, cameras=(CameraSpec(name="top", height=8, width=8),)), Count, "'top'"),
        (
            replace(MODEL, cameras=(CameraSpec(name="top", height=8, width=6),)),
            lambda: Count(size=8),
            "8 x 6 from camera 'top', got 8 x 8",
        ),
    ],
)
def test_a_policy_of_another_task_is_refused(spec, environment, named):
    with pytest.raises(InputError, match=named):
        run(Labels(spec), environment=environment)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ExecutionConfig(executor="eager"), "eager"),
        (lambda: ExecutionConfig(drop=1.0), "drop"),
        (lambda: ExecutionConfig(delay_steps=-1), "delay_steps"),
        (lambda: EvaluationConfig(episodes=0), "episodes"),
        (lambda: EvaluationConfig(timed_episodes=-1), "timed_episodes"),
        (lambda: run(action_horizon=9), "at most the 8 actions"),
    ],
)
def test_impossible_settings_are_refused(make, named):
    with pytest.raises(InputError, match=named):
        make()


# ---- evaluation --------------------------------------------------------------------------------


def test_evaluation_counts_and_times():
    environments = iter([Count(limit) for limit in (5.0, 1e9) * 3])
    model = Labels()
    result = evaluate(
        model,
        lambda: next(environments),
        config=EvaluationConfig(episodes=6, batch=4, timed_episodes=2, seed=3),
    )
    assert [run.seed for run in result.runs] == list(
        range(FIRST_SEED + 30_000, FIRST_SEED + 30_006)
    )
    assert result.successes == 3
    assert [batch for _, batch in model.resets] == [4, 2, 1, 1]
    content = result.to_json()
    assert (content["episodes"], content["successes"], content["failures"]) == (6, 3, 0)
    assert content["success_ci95"] == pytest.approx(wilson(3, 6))
    assert content["steps_mean"] == 17.5
    assert content["largest_jump"] == 0.0  # the gripper's entry, which moves, is not counted
    assert content["network_calls_per_answer"] == 2.0
    assert run_seeds(3, 6) == range(FIRST_SEED + 30_000, FIRST_SEED + 30_006)


def test_the_start_of_the_motion_is_no_jump_but_a_stop_is_one():
    def figures(executor: str) -> dict:
        config = EvaluationConfig(episodes=2, timed_episodes=0)
        execution = ExecutionConfig(executor=executor, delay_steps=2)
        return evaluate(Labels(), Count, execution=execution, config=config).to_json()

    assert figures("rtc")["largest_jump"] == figures("rtc")["jerk_median"] == 0.0
    assert figures("receding")["largest_jump"] == 1.0
    assert figures("receding")["jerk_median"] > 0.0


def test_a_seed_gives_the_same_runs_again():
    def once(seed: int):
        config = EvaluationConfig(episodes=3, timed_episodes=0, seed=seed)
        execution = ExecutionConfig(drop=0.5, executor="async", delay_steps=2)
        return evaluate(Labels(), Count, execution=execution, config=config)

    first, again, other = once(0), once(0), once(1)
    for a, b in zip(first.runs, again.runs, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
    assert any(
        not np.array_equal(a.actions, b.actions)
        for a, b in zip(first.runs, other.runs, strict=True)
    )


def test_time_of_an_answer_is_shared_out_among_its_actions():
    answers = [
        Answer(seconds=0.008, network_calls=10, actions=8),
        Answer(seconds=0.004, network_calls=5, actions=2),
    ]
    figures = timing(answers)
    assert figures["timed_actions"] == 10
    assert figures["time_per_action_ms"]["mean"] == pytest.approx(1.2)
    assert figures["time_per_action_ms"]["p50"] == pytest.approx(1.0)
    assert figures["time_per_action_ms"]["p99"] == pytest.approx(2.0)
    assert figures["time_per_answer_ms"]["p50"] == pytest.approx(6.0)
    assert figures["network_calls_per_action"] == pytest.approx(1.5)
    assert figures["network_calls_per_answer"] == pytest.approx(7.5)


def test_wilson_interval_ends_at_the_ends():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 7)[1] == pytest.approx(1.0 - wilson(7, 7)[0])


def test_figures_of_known_motions():
    steps = np.arange(10.0)
    assert jerk(np.stack([steps, steps**2], axis=1)) == pytest.approx(0.0)
    assert jerk(steps[:, None] ** 3) == pytest.approx(6.0)
    assert jerk(np.zeros((3, 1))) == 0.0
    assert largest_jump(np.array([[0.0, 0.0], [1.0, -3.0], [1.5, -3.0]])) == 3.0
    assert largest_jump(np.zeros((1, 2))) == 0.0
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0


# ---- demonstrations of an expert ---------------------------------------------------------------


class Forward:
    """Goes towards the limit from where it is."""

    def reset(self, seed: int) -> None:
        self.resets = [*getattr(self, "resets", []), seed]

    def act(self, seen: Seen) -> np.ndarray:
        return np.array([0.5 + 0.1 * seen.state[2], 1.0])


class Slippery(Count):
    """Every third seed cannot be solved."""

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        return replace(outcome, success=outcome.success and self.seed % 3 != 0)


def test_demonstrations_hold_what_the_expert_wanted_and_only_success():
    expert: Expert = Forward()
    environment = Slippery(4.0, size=4)
    data = collect(environment, expert, episodes=4, noise=0.1)
    data.check()
    assert [state[0, 1] for state in data.state] == [1, 2, 4, 5]
    assert expert.resets == [0, 1, 2, 3, 4, 5]
    for state, action in zip(data.state, data.action, strict=True):
        np.testing.assert_allclose(action[:, 0], 0.5 + 0.1 * state[:, 2])
        moved = np.diff(state[:, 2]) - action[:-1, 0]
        assert 0.0 < np.abs(moved).max() < 0.5
        np.testing.assert_array_equal(action[:, 1], 1.0)
    assert [len(frames) for frames in data.images["top"]] == [len(s) for s in data.state]
    np.testing.assert_array_equal(data.images["top"][0][:, 0, 0, 0], np.arange(len(data.state[0])))
    again = collect(environment, Forward(), episodes=2, noise=0.1)
    np.testing.assert_array_equal(again.state[1], data.state[1])


def test_lingering_shows_what_to_do_where_the_task_is_solved():
    short, long = (collect(Count(4.0), Forward(), episodes=2, linger=linger) for linger in (0, 6))
    for a, b in zip(short.state, long.state, strict=True):
        assert len(b) == len(a) + 6
        np.testing.assert_array_equal(b[: len(a)], a)
        assert (b[len(a) :, 2] >= 4.0).all()


def test_an_expert_that_fails_is_an_input_error():
    with pytest.raises(InputError, match="got 0 in 8 attempts"):
        collect(Count(), Forward(), episodes=2)
    with pytest.raises(InputError, match="at least 1 episode"):
        collect(Count(), Forward(), episodes=0)
