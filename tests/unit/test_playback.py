"""Commands played on another simulator."""

import dataclasses

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.episodes.episode import Episode
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import Stepper, default_state, stack
from sim2real.tasks.playback import play_commands


def recorded(robot, ticks=12, seed=0) -> Episode:
    """An episode of random commands in MuJoCo."""
    one = Stepper(robot)
    rest = default_state(robot)
    one.reset(dataclasses.replace(rest, qpos_rad=rest.qpos_rad + 0.01))
    noise = np.random.default_rng(seed).normal(0.0, 0.05, (ticks, robot.n))
    commands = robot.default_rad + noise
    states = [one.state]
    for command in commands[:-1]:
        one.step(command)
        states.append(one.state)
    arrays = stack([s.map(lambda x: x[None]) for s in states]).map(lambda x: x[0])
    return Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        t_s=np.arange(ticks) / robot.control_rate_hz,
        action_rad=commands,
        effort_nm=np.zeros((ticks, robot.n)),
        source={"seed": str(seed)},
        **vars(arrays),
    )


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_the_same_simulator_lives_the_same_episode(robot):
    episode = recorded(robot)
    again = play_commands(episode, robot, Stepper(robot), "mujoco")
    for field in dataclasses.fields(Episode):
        if field.name in ("source", "effort_nm"):
            continue
        ours, theirs = getattr(again, field.name), getattr(episode, field.name)
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
    assert again.effort_nm is None
    assert again.source == {"seed": "0", "played_on": "mujoco"}


def test_another_simulator_lives_another_one():
    episode = recorded(PANDA)
    weak = play_commands(episode, PANDA, Stepper(PANDA, Gap(strength={"*": 0.5})), "weak")
    np.testing.assert_array_equal(weak.qpos_rad[0], episode.qpos_rad[0])
    np.testing.assert_array_equal(weak.action_rad, episode.action_rad)
    assert np.abs(weak.qpos_rad - episode.qpos_rad).max() > 1e-3


def test_episodes_of_another_robot_are_refused():
    with pytest.raises(InputError, match="episodes of g1"):
        play_commands(recorded(PANDA, ticks=3), G1, Stepper(G1), "mujoco")
