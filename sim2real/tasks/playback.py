"""Logged commands played on another simulator: the same episode as another robot lives it."""

from __future__ import annotations

from dataclasses import fields, replace

from policies.interface import RobotSpec
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log
from sim2real.sim.engine import OneRobot
from sim2real.sim.stepper import SimState, stack


def play_commands(episode: Episode, robot: RobotSpec, simulator: OneRobot, name: str) -> Episode:
    """Send the commands of ``episode`` to ``simulator``, from its first state on, open loop.

    Args:
        episode: an episode of ``robot``.
        robot: the robot.
        simulator: a simulator at the episode's rate.
        name: what the simulator is, for the provenance of the result.

    Returns:
        The episode with the simulator's states in the place of its own, without efforts.

    Raises:
        InputError: an episode of another robot, or damaged.
    """
    log = Log.of([episode], robot)
    simulator.reset(log.state.map(lambda x: x[0]))
    states = [simulator.state]
    for target in log.setpoint_rad[:-1]:
        simulator.step(target)
        states.append(simulator.state)
    played = stack([s.map(lambda x: x[None]) for s in states]).map(lambda x: x[0])
    arrays = {field.name: getattr(played, field.name) for field in fields(SimState)}
    source = {**episode.source, "played_on": name}
    return replace(episode, **arrays, effort_nm=None, source=source)
