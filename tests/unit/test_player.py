"""Commands of a bag, and calibration motions, as chunks in a policy's place."""

from __future__ import annotations

import json

import numpy as np
import pytest
from realign_recorder.motion import (
    Motion,
    Playback,
    in_time,
    motion_of_bag,
    motion_of_excitation,
)

from policies.errors import InputError
from policies.robots import get_robot
from sim2real.calibrate_play import write_motion

SO101, G1 = get_robot("so101"), get_robot("g1")
NS = 1_000_000_000


def ramp(robot, held=False):
    """All joints from their default, a quarter rad in a second."""
    t_s = np.arange(0.0, 1.0001, 0.05)
    return Motion(t_s=t_s, positions_rad=robot.default_rad + 0.25 * t_s[:, None], held=held)


@pytest.fixture
def bag(tmp_path):
    """A bag whose commands are :func:`ramp` at 20 Hz."""
    command = ramp(SO101).positions_rad
    still = np.zeros_like(command)
    write_motion(tmp_path / "bag", SO101, "none", 20.0, command, (command, still, still))
    return tmp_path / "bag"


def test_commands_come_out_of_a_bag_as_they_went_in(bag):
    motion = motion_of_bag(bag, SO101)
    assert motion.duration_s == pytest.approx(1.0)
    assert motion.positions_rad == pytest.approx(ramp(SO101).positions_rad)
    assert motion.at(np.array([-1.0, 0.525, 9.0])) - SO101.default_rad == pytest.approx(
        np.array([0.0, 0.13125, 0.25])[:, None] * np.ones(6)
    )
    assert motion_of_bag(bag, SO101, "/joint_command").t_s == pytest.approx(motion.t_s)


def test_a_bag_with_a_gap_is_refused(tmp_path):
    command = ramp(SO101).positions_rad.copy()
    still = np.zeros_like(command)
    command[5:16] = np.nan  # lost, or a damping command, which has no positions
    write_motion(tmp_path / "bag", SO101, "none", 20.0, command, (command, still, still))
    with pytest.raises(InputError, match=r"none for 0\.60 s from 0\.20 s on"):
        motion_of_bag(tmp_path / "bag", SO101)


def test_stamps_that_go_back_a_little_are_passed_over_and_more_is_another_run():
    stamps = NS + np.arange(20) * NS // 20
    assert in_time(stamps, "bag").all()
    stamps[18] -= NS // 8
    assert np.flatnonzero(~in_time(stamps, "bag")).tolist() == [18]
    stamps[18:] = stamps[0]
    with pytest.raises(InputError, match=r"bag: .* the clock goes back at 0\.85 s"):
        in_time(stamps, "bag")


def test_set_points_of_a_legged_robot_are_held_not_blended():
    motion = ramp(G1, held=True)
    assert motion.at(np.array([0.549])) == pytest.approx(motion.positions_rad[10:11])
    first = Playback(motion, G1, dt_s=0.02, horizon=3).act(NS, G1.default_rad + 1.0)
    assert first.positions_rad == pytest.approx(np.tile(G1.default_rad, (3, 1)))


def test_an_arm_goes_to_the_beginning_slowly_then_plays_in_its_own_time():
    motion = ramp(SO101)
    playback = Playback(motion, SO101, dt_s=0.02, horizon=8)
    start = SO101.default_rad + 0.9
    assert playback.played_s(5 * NS) < 0.0
    chunks = [playback.act(5 * NS + k * NS // 50, start) for k in range(200)]
    rows = np.array([chunk.positions_rad[0] for chunk in chunks])
    assert rows[0] == pytest.approx(start)
    speed = np.abs(np.diff(rows, axis=0)) * 50.0
    approach = 0.9 / 3.0 / 0.2  # a fifth of the speed limit: 1.5 s
    assert speed.max() < 1.6 * 0.2 * 3.0
    assert playback.played_s(5 * NS) == pytest.approx(-approach)
    at_s = np.arange(200) / 50.0 - approach
    moving = at_s >= 0.0
    assert rows[moving] == pytest.approx(motion.at(at_s[moving]), abs=1e-6)
    assert chunks[100].positions_rad[1:] == pytest.approx(rows[101:108], abs=1e-6)
    assert playback.played_s(5 * NS + 4 * NS) == pytest.approx(4.0 - approach)


def test_calibration_motions_are_played_too(tmp_path):
    pytest.importorskip("pinocchio", reason="needs pinocchio: pip install 'realign[calibration]'")
    from calibration.excitation import Excitation

    wave = np.full((6, 2), 0.05)
    plan = Excitation(
        joint_names=SO101.joint_names,
        centre_rad=SO101.default_rad,
        sine_rad=wave,
        cosine_rad=wave,
        base_hz=0.5,
        duration_s=4.0,
        fade_s=1.0,
    )
    plan.save(tmp_path / "m.json", "so101", {})
    motion = motion_of_excitation(tmp_path / "m.json", SO101)
    times = np.array([0.0, 1.3, 2.9])
    assert motion.at(times) == pytest.approx(plan.at(times)[0], abs=1e-3)
    with pytest.raises(InputError, match="expected a motion of g1"):
        motion_of_excitation(tmp_path / "m.json", G1)


@pytest.mark.parametrize(
    ("robot", "topic", "sentence"),
    [
        (SO101, "/joint_state", "no such topic"),
        (get_robot("panda"), "", "panda_joint1"),
    ],
)
def test_bag_without_such_commands_is_one_sentence(bag, robot, topic, sentence):
    with pytest.raises(InputError) as error:
        motion_of_bag(bag, robot, topic)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_no_bag_and_no_motion_are_one_sentence(tmp_path):
    with pytest.raises(InputError):
        motion_of_bag(tmp_path / "nothing", SO101)
    (tmp_path / "m.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="realign calibrate excite"):
        motion_of_excitation(tmp_path / "m.json", SO101)
