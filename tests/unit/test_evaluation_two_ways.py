"""Policies trained on the task with two ways, in closed loop: what the mean of both ways does."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.diffusion.backend import DENOISER_FILE, ENCODER_FILE, OnnxBackend
from policies.diffusion.config import NetworkConfig, make_sampler
from policies.diffusion.export import export_onnx
from policies.diffusion.model import GenerativeModel
from policies.diffusion.trainer import TrainConfig, train_model
from policies.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate
from policies.evaluation.loop import ExecutionConfig
from sim2real.tasks.obstacle import Obstacle, ObstacleExpert, side

RUNS = EvaluationConfig(episodes=40, batch=40, timed_episodes=1)


@pytest.fixture(scope="module")
def demonstrations():
    return collect(Obstacle(), ObstacleExpert(), episodes=150, noise=0.05)


def train(demonstrations, kind: str, steps: int) -> GenerativeModel:
    config = TrainConfig(
        kind=kind,
        name=kind,
        network=NetworkConfig(width=64, depth=2),
        steps=steps,
        batch=128,
        ema_decay=0.99,
        learning_rate=2e-3,
        device="cpu",
    )
    trained = train_model(demonstrations, config)
    files = export_onnx(trained.config, trained.network)
    backend = OnnxBackend(trained.config, files[ENCODER_FILE], files[DENOISER_FILE], kind)
    return GenerativeModel(trained.config, backend, make_sampler(kind))


@pytest.fixture(scope="module")
def mean_policy(demonstrations) -> Evaluation:
    return evaluate(train(demonstrations, "mlp", 400), Obstacle, config=RUNS)


@pytest.fixture(scope="module")
def flow(demonstrations) -> GenerativeModel:
    return train(demonstrations, "flow", 1200)


def shares(result: Evaluation) -> tuple[int, int]:
    """Successful runs on the left and on the right."""
    sides = [side(run.states) for run in result.runs if run.success]
    return sides.count(1), sides.count(-1)


def test_the_mean_of_two_ways_hits_what_lies_between(mean_policy):
    failures = sum(run.failure for run in mean_policy.runs)
    assert failures >= 20


def test_flow_goes_both_ways(flow, mean_policy):
    result = evaluate(flow, Obstacle, config=RUNS)
    left, right = shares(result)
    assert result.successes >= 32
    hits, of_mean = (sum(run.failure for run in r.runs) for r in (result, mean_policy))
    assert 4 * hits <= of_mean
    assert min(left, right) >= 6
    # One way at a time: no run stands undecided until its end.
    assert all(run.success or run.failure for run in result.runs)


def test_a_delay_that_is_bridged_by_real_time_chunking_does_not_stop_the_robot(flow):
    def run(executor: str) -> Evaluation:
        execution = ExecutionConfig(executor=executor, action_horizon=6, delay_steps=4)
        return evaluate(flow, Obstacle, execution=execution, config=RUNS)

    def standing(result: Evaluation) -> float:
        """Share of steps after the first answer at which the robot stands still."""
        speeds = [np.linalg.norm(run.actions[4:], axis=1) for run in result.runs]
        return float((np.concatenate(speeds) == 0.0).mean())

    waiting, bridged = run("receding"), run("rtc")
    assert standing(waiting) > 0.3
    assert standing(bridged) == 0.0
    assert bridged.successes >= 28


def test_figures_of_a_trained_model(flow):
    content = evaluate(flow, Obstacle, config=RUNS).to_json()
    low, high = content["success_ci95"]
    assert 0.0 < low < content["success"] < high <= 1.0 or content["success"] == 1.0
    assert content["network_calls_per_answer"] == 10.0
    assert content["network_calls_per_action"] >= 10 / 8  # a run may end within a chunk
    assert 0.0 < content["time_per_action_ms"]["p50"] <= content["time_per_action_ms"]["p99"]
