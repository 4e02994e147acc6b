"""The image task: what the ray camera shows, the environment, and a policy that has to look."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.errors import InputError
from policies.evaluation.environment import Environment, Seen
from policies.evaluation.evaluate import EvaluationConfig, evaluate
from policies.robots import get_robot
from sim2real.sim.ray_camera import RayCamera, View
from sim2real.tasks.panda_ball import CAMERA, SPEC, TOLERANCE_M, VIEW, PandaBall, PandaBallExpert
from sim2real.tasks.registry import make_environment, make_expert

PANDA = get_robot("panda")


@pytest.fixture(scope="module")
def camera() -> RayCamera:
    return RayCamera(PANDA, VIEW, ball_radius_m=0.04)


@pytest.fixture(scope="module")
def environment() -> PandaBall:
    return PandaBall()


def red(image: np.ndarray) -> np.ndarray:
    """Pixels of the ball, (k, 2): row and column."""
    r, g, b = (image[..., i].astype(int) for i in range(3))
    return np.argwhere((r > 2 * g) & (r > 2 * b))


def projected(view: View, point: np.ndarray) -> np.ndarray:
    """Row and column of a point, by the pinhole equations."""
    position, target = np.array(view.position_m), np.array(view.target_m)
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, [0, 0, 1])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    focal = 0.5 * view.height / np.tan(0.5 * np.radians(view.fov_deg))
    ray = point - position
    return np.array(
        [
            0.5 * view.height + focal * (ray @ y) / (ray @ z) - 0.5,
            0.5 * view.width + focal * (ray @ x) / (ray @ z) - 0.5,
        ]
    )


@pytest.mark.parametrize("ball", [(0.5, 0.25, 0.25), (0.5, -0.25, 0.25), (0.6, 0.1, 0.3)])
def test_the_ball_is_seen_where_a_pinhole_camera_sees_it(camera, ball):
    image = camera.image(PANDA.default_rad, np.array(ball))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    pixels = red(image)
    assert len(pixels) >= 6
    np.testing.assert_allclose(pixels.mean(axis=0), projected(VIEW, np.array(ball)), atol=1.0)


def test_a_nearer_ball_is_larger_and_the_arm_hides_what_lies_behind(camera):
    near, far = (
        len(red(camera.image(PANDA.default_rad, np.array([x, 0.25, 0.3])))) for x in (0.6, 0.0)
    )
    assert near > far
    assert len(red(camera.image(PANDA.default_rad, np.array([-0.2, 0.0, 0.2])))) < far


def test_the_image_follows_the_arm(camera):
    ball = np.array([0.5, 0.3, 0.25])
    moved = PANDA.default_rad.copy()
    moved[0] += 0.5
    one, again, other = (
        camera.image(q, ball) for q in (PANDA.default_rad, PANDA.default_rad, moved)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any(axis=2).mean() > 0.02


def test_a_walking_robot_has_no_such_camera():
    with pytest.raises(InputError, match="fixed base"):
        RayCamera(get_robot("g1"), VIEW, ball_radius_m=0.04)


def test_environment_repeats_and_the_state_tells_nothing_of_the_ball(environment):
    assert isinstance(environment, Environment)
    one = environment.reset(1)
    first = environment.step(one.state + 0.05)
    again = environment.reset(1)
    second = environment.step(again.state + 0.05)
    np.testing.assert_array_equal(one.images[CAMERA], again.images[CAMERA])
    np.testing.assert_array_equal(first.seen.state, second.seen.state)
    assert one.state.shape == (7,)
    assert np.abs(first.seen.state - one.state).max() > 0.02
    other = environment.reset(2)
    assert (one.images[CAMERA] != other.images[CAMERA]).any()
    with pytest.raises(InputError, match="finite"):
        environment.step(np.full(7, np.nan))


def test_the_expert_brings_the_hand_to_the_ball(environment):
    expert = make_expert(make_environment("panda-ball"))
    assert isinstance(expert, PandaBallExpert)
    data = collect(environment, PandaBallExpert(environment), episodes=5, noise=0.02)
    data.check()
    assert [rows.shape[1:] for rows in data.images[CAMERA]] == [(64, 64, 3)] * 5
    assert all(5 <= len(state) < SPEC.max_steps for state in data.state)
    hand, _ = environment.kinematics.end_effector(data.action[-1][-1])
    assert np.linalg.norm(hand - environment.ball_m) < 3 * TOLERANCE_M


class Blind(PandaBall):
    """The camera shows a ball, but not where it is."""

    def _seen(self) -> Seen:
        there, self.ball_m = self.ball_m, np.array([0.475, 0.0, 0.25])
        seen = super()._seen()
        self.ball_m = there
        return seen


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_learns_to_look(environment, tmp_path):
    from policies.diffusion.checkpoint import load_chunk_model, save_chunk_model
    from policies.diffusion.config import NetworkConfig
    from policies.diffusion.export import export_onnx
    from policies.diffusion.trainer import TrainConfig, train_model

    data = collect(environment, PandaBallExpert(environment), episodes=100, noise=0.02)
    config = TrainConfig(
        kind="flow",
        name="look",
        network=NetworkConfig(width=128),
        observation_horizon=1,
        prediction_horizon=8,
        action_horizon=4,
        steps=600,
        batch=64,
        device="cpu",
    )
    trained = train_model(data, config)
    save_chunk_model(
        tmp_path / "look", trained.config, export_onnx(trained.config, trained.network)
    )
    model = load_chunk_model(tmp_path / "look")
    runs = EvaluationConfig(episodes=20, batch=20, timed_episodes=0)
    assert evaluate(model, PandaBall, config=runs).successes >= 16
    assert evaluate(model, Blind, config=runs).successes <= 8
