"""Meta-World: names, seeds, experts. Skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.diffusion.backend import DENOISER_FILE, ENCODER_FILE, OnnxBackend
from policies.diffusion.config import NetworkConfig, make_sampler
from policies.diffusion.export import export_onnx
from policies.diffusion.model import GenerativeModel
from policies.diffusion.trainer import TrainConfig, train_model
from policies.errors import InputError
from policies.evaluation.environment import Environment
from policies.evaluation.evaluate import EvaluationConfig, evaluate
from sim2real import cli
from sim2real.tasks.metaworld import TASKS, MetaWorld, MetaWorldExpert
from sim2real.tasks.registry import make_environment, make_expert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def reach() -> MetaWorld:
    pytest.importorskip("metaworld", reason="needs realign[metaworld]")
    return MetaWorld("reach-v3")


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="peg-insert-side-v3"):
        MetaWorld("reach-v2")


def test_where_metaworld_is_missing_the_command_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "metaworld.env_dict", None)
    monkeypatch.setitem(__import__("sys").modules, "metaworld", None)
    code = cli.main(["policy", "demos", "--task", "reach-v3", "--out", str(tmp_path / "d")])
    assert code == 2
    assert "realign[metaworld]" in capsys.readouterr().err


def test_a_seed_is_a_goal_and_gives_the_same_run_again(reach):
    assert isinstance(reach, Environment)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (30, 4))

    def states(seed: int) -> np.ndarray:
        first = reach.reset(seed).state
        return np.array([first, *(reach.step(action).seen.state for action in actions)])

    one, other, again = states(1), states(2), states(1)
    np.testing.assert_array_equal(one, again)
    goal = [reach.spec.state_names.index(f"goal_{axis}") for axis in "xyz"]
    assert np.abs(one[0, goal] - other[0, goal]).max() > 0.01
    assert one.shape == (31, len(reach.spec.state_names))


def test_state_is_the_observation_without_its_past(reach):
    state = reach.reset(0).state
    state = reach.step(np.array([1.0, 0.0, 0.0, -1.0])).seen.state
    np.testing.assert_array_equal(state[:18], reach.observed[:18])
    np.testing.assert_array_equal(state[18:], reach.observed[36:])
    before = state[0]
    assert reach.step(np.array([1.0, 0.0, 0.0, -1.0])).seen.state[0] > before  # hand_x


def test_actions_beyond_the_limit_are_the_limit(reach):
    def after(action: float) -> np.ndarray:
        reach.reset(0)
        return reach.step(np.full(4, action)).seen.state

    np.testing.assert_array_equal(after(5.0), after(1.0))


@pytest.mark.parametrize("task", TASKS)
def test_experts_solve_their_tasks(task):
    pytest.importorskip("metaworld", reason="needs realign[metaworld]")
    environment = make_environment(task)
    expert = make_expert(environment)
    assert isinstance(expert, MetaWorldExpert)
    data = collect(environment, expert, episodes=3, noise=0.1)
    data.check()
    assert data.task == [task] * 3
    assert all(len(state) < environment.spec.max_steps for state in data.state)
    assert np.abs(np.concatenate(data.action)).max() <= 1.0


def test_a_small_policy_learns_to_reach(reach):
    """The benchmark in small: record, train, export, run; an untrained network must fail."""
    demonstrations = collect(reach, MetaWorldExpert(reach), episodes=12, noise=0.1, linger=20)

    def successes(steps: int) -> int:
        config = TrainConfig(
            kind="flow",
            name="reach",
            network=NetworkConfig(width=64, depth=2),
            steps=steps,
            batch=64,
            ema_decay=0.98,
            learning_rate=2e-3,
            device="cpu",
        )
        trained = train_model(demonstrations, config)
        files = export_onnx(trained.config, trained.network)
        backend = OnnxBackend(trained.config, files[ENCODER_FILE], files[DENOISER_FILE], "reach")
        model = GenerativeModel(trained.config, backend, make_sampler("flow", name="adaptive"))
        runs = EvaluationConfig(episodes=8, batch=1, timed_episodes=0)
        return evaluate(model, lambda: reach, config=runs).successes

    assert successes(1) <= 2
    assert successes(800) >= 6
