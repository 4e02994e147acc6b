"""A policy in closed loop without ROS gives the episodes that the graph would record."""

import dataclasses

import numpy as np
import pytest

from policies.errors import InputError
from policies.interface import ActionChunk, PolicySpec
from policies.robots import G1, PANDA
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import Stepper
from sim2real.tasks.closed_loop import roll_out


class Hold:
    """Holds one pose."""

    def __init__(self, robot, pose, duration_s=0.4):
        self.pose, self.calls = pose, 0
        self.spec = PolicySpec(
            name="hold",
            robot=robot.name,
            robot_fingerprint=robot.fingerprint,
            rate_hz=robot.control_rate_hz,
            action_dt_s=1.0 / robot.control_rate_hz,
            horizon=1,
            duration_s=duration_s,
            start_pose_rad=tuple(robot.default_rad),
            needs=(),
            sha256="",
        )

    def reset(self, seed):
        self.calls = 0

    def act(self, observation):
        self.calls += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, dt_s=0.02, positions_rad=self.pose[None].copy()
        )


def test_rows_are_states_with_the_commands_in_force():
    policy = Hold(PANDA, PANDA.default_rad + 0.1)
    episode = roll_out(policy, PANDA, seed=3).episode
    assert policy.calls == len(episode) - 1 == round(0.4 * PANDA.control_rate_hz)
    stepper = Stepper(PANDA)
    stepper.reset(
        dataclasses.replace(
            stepper.state, qpos_rad=episode.qpos_rad[0], qvel_rad_s=episode.qvel_rad_s[0]
        )
    )
    stepper.step(episode.action_rad[0])
    np.testing.assert_array_equal(stepper.state.qpos_rad, episode.qpos_rad[1])


def test_a_seed_gives_the_same_run_and_noise_is_logged_as_sent():
    policy = Hold(G1, G1.default_rad)
    a, b, c = (roll_out(policy, G1, seed=s, command_noise_rad=0.05).episode for s in (1, 1, 2))
    np.testing.assert_array_equal(a.qpos_rad, b.qpos_rad)
    assert not np.array_equal(a.qpos_rad, c.qpos_rad)
    assert (a.action_rad[:-1] - G1.default_rad).std() == pytest.approx(0.05, rel=0.1)


def test_a_fall_ends_the_run():
    limp = Gap(strength={"*": 0.01})
    result = roll_out(Hold(G1, G1.default_rad, duration_s=5.0), G1, gap=limp)
    assert result.fell
    assert not result.completed
    assert len(result.episode) < 5.0 * G1.control_rate_hz


def test_policies_that_cannot_be_run_here_are_refused():
    policy = Hold(G1, G1.default_rad, duration_s=None)
    with pytest.raises(InputError, match="give one in s"):
        roll_out(policy, G1)
    policy.spec = dataclasses.replace(policy.spec, rate_hz=10.0)
    with pytest.raises(InputError, match="realign run"):
        roll_out(policy, G1, duration_s=1.0)
