"""Bag -> episodes on an even grid, aligned by header stamps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.bags.batch import NS
from sim2real.bags.reader import Bag, read_bag
from sim2real.episodes.align import even_grid, hold_index, interpolate, slerp
from sim2real.episodes.cameras import ImageLimits, align_images, find_cameras
from sim2real.episodes.episode import Episode
from sim2real.episodes.segment import Window, find_windows
from sim2real.episodes.streams import Streams, read_streams

Progress = Callable[[int, int], None]


def build_episodes(
    bag_path: Path,
    robot: RobotSpec,
    *,
    rate_hz: float | None = None,
    state_topic: str | None = None,
    command_topic: str | None = None,
    min_length_s: float = 0.5,
    max_gap_s: float = 0.1,
    cameras: Sequence[str] | None = None,
    image_limits: ImageLimits | None = None,
    task: str | None = None,
    progress: Progress | None = None,
) -> list[Episode]:
    """Cut a bag into episodes.

    States are interpolated at the grid times (a sample within 1 us of one is taken bit for bit);
    the action at a grid time is the last command stamped at or before it, and so is the image of a
    camera. An episode's grid starts at the first state stamp at which a command is in force and
    every camera has sent an image. Its task is the instruction in force, or else what the episode
    marker says.

    Args:
        bag_path: rosbag2 directory, or one ``.mcap`` or ``.db3`` file.
        robot: whose joints are in the bag, by name; other joints are ignored.
        rate_hz: grid rate, Hz; None for the control rate of the robot.
        state_topic: ``sensor_msgs/JointState``; None for ``/joint_states``.
        command_topic: ``trajectory_msgs/JointTrajectory`` of one point or
            ``sensor_msgs/JointState``; None for the first of ``/joint_command``,
            ``/joint_commands``.
        min_length_s: shorter stretches are left out, s.
        max_gap_s: states (and odometry) missing for longer end an episode, s.
        cameras: ``NAME`` or ``NAME=TOPIC``; None for all that the bag has, () for none.
        image_limits: how old images may be, and how many may be missing; None for the usual.
        task: what was done, in place of what the bag says.
        progress: called with (windows done, windows in all).

    Returns:
        Episodes in the order of the bag, at least one.

    Raises:
        InputError: the bag is damaged, of another robot, lacks topics, joints or images, has values
            that are not finite or not rad, is stamped too slowly, or is too short.
    """
    rate = robot.control_rate_hz if rate_hz is None else rate_hz
    if not (np.isfinite(rate) and 0.0 < rate <= 1e6):
        raise InputError(f"expected a grid rate above 0 Hz, got {rate}; give --rate-hz in Hz")
    bag = read_bag(bag_path)
    _require_robot(bag, robot)
    streams = read_streams(bag, robot, state_topic, command_topic)
    state_rate_hz = _require_rate(bag, streams, rate)
    images, limits = find_cameras(bag, cameras), image_limits or ImageLimits()
    windows = find_windows(
        streams.states,
        streams.commands,
        streams.base,
        streams.markers,
        max_gap_s=max_gap_s,
        instructions=streams.instructions if task is None else None,
        images=images,
    )
    source = _source(bag, streams, state_rate_hz)
    bag_start_ns = int(streams.states.stamp_ns[0])
    episodes: list[Episode] = []
    longest_s = 0.0
    for done, window in enumerate(windows):
        grid = even_grid(window.start_ns, window.end_ns, rate)
        length_s = (len(grid) - 1) / rate
        longest_s = max(longest_s, length_s)
        if length_s >= min_length_s and len(grid) > 1:
            episode = _episode(streams, window, grid, robot, rate, bag_start_ns, source)
            frames, facts = align_images(images, window.images, grid, limits)
            own = episode.task if task is None else task
            episodes.append(
                replace(episode, images=frames, task=own, source=episode.source | facts)
            )
        if progress is not None:
            progress(done + 1, len(windows))
    if not episodes:
        what = "a command in force and images" if images else "a command in force"
        raise InputError(
            f"bag {bag_path}: expected at least {min_length_s} s of states with {what}, but the "
            f"longest stretch has {longest_s:.3f} s; record longer or lower --min-length-s"
        )
    return episodes


def _episode(
    streams: Streams,
    window: Window,
    grid: np.ndarray[tuple[int], np.dtype[np.int64]],
    robot: RobotSpec,
    rate_hz: float,
    bag_start_ns: int,
    source: dict[str, str],
) -> Episode:
    states, commands, base = streams.states, streams.commands, streams.base
    stamps = states.stamp_ns[window.states]
    held = window.commands[hold_index(commands.stamp_ns[window.commands], grid)]
    own = dict(source, start_stamp_ns=str(int(grid[0])))
    if window.marker is not None:
        own["marker"] = str(window.marker)
    pos = quat = lin_vel = ang_vel = None
    if base is not None and window.base is not None:
        known = base.stamp_ns[window.base]
        pos = interpolate(known, base.pos_m[window.base], grid)
        quat = slerp(known, base.quat_wxyz[window.base], grid)
        lin_vel = interpolate(known, base.lin_vel_m_s[window.base], grid)
        ang_vel = interpolate(known, base.ang_vel_rad_s[window.base], grid)
    effort = states.effort_nm
    return Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=float(rate_hz),
        t_s=(grid - bag_start_ns) / NS,
        qpos_rad=interpolate(stamps, states.qpos_rad[window.states], grid),
        qvel_rad_s=interpolate(stamps, states.qvel_rad_s[window.states], grid),
        action_rad=commands.qpos_rad[held],
        action_vel_rad_s=None if commands.qvel_rad_s is None else commands.qvel_rad_s[held],
        effort_nm=None if effort is None else interpolate(stamps, effort[window.states], grid),
        base_pos_m=pos,
        base_quat_wxyz=quat,
        base_lin_vel_m_s=lin_vel,
        base_ang_vel_rad_s=ang_vel,
        task=window.task,
        source=own,
    )


def _require_robot(bag: Bag, robot: RobotSpec) -> None:
    provenance = bag.info.provenance
    for key, expected in (("robot", robot.name), ("robot_fingerprint", robot.fingerprint)):
        if provenance.get(key, expected) != expected:
            raise InputError(
                f"bag {bag.info.path}: expected {key} {expected}, but it was recorded with "
                f"{provenance[key]}; use the robot that it was recorded with"
            )


def _require_rate(bag: Bag, streams: Streams, rate_hz: float) -> float:
    """Measured rate of the state stamps, Hz, checked against the grid and the declaration."""
    steps = np.diff(streams.states.stamp_ns)
    steps = steps[steps > 0]
    if not len(steps):
        raise InputError(
            f"topic {streams.state_topic}: expected stamps that advance, but none does; "
            "fix the publisher"
        )
    measured = NS / float(np.median(steps))
    if measured < 0.95 * rate_hz:
        raise InputError(
            f"topic {streams.state_topic}: expected at least {rate_hz:g} Hz, but its stamps come "
            f"at {measured:.1f} Hz; record faster or lower --rate-hz"
        )
    declared = bag.info.provenance.get("state_rate_hz")
    if declared is not None:
        try:
            wanted = float(declared)
        except ValueError:
            wanted = float("nan")
        if not abs(measured - wanted) <= 0.05 * wanted:
            raise InputError(
                f"topic {streams.state_topic}: expected stamps at the declared {declared} Hz "
                f"(+-5 %), but they come at {measured:.1f} Hz; the recorder or its clock is wrong"
            )
    return measured


def _source(bag: Bag, streams: Streams, state_rate_hz: float) -> dict[str, str]:
    """Provenance that all episodes of a bag share."""
    digests = bag.info.sha256
    return {
        **{f"bag.{key}": value for key, value in sorted(bag.info.provenance.items())},
        "bag": Path(bag.info.path).resolve().name,
        "sha256": " ".join(f"{name}:{digests[name]}" for name in sorted(digests)),
        "state_topic": streams.state_topic,
        "command_topic": streams.command_topic,
        "state_rate_hz": f"{state_rate_hz:.3f}",
    }
