"""The policy without training: a swing of every joint, within limits, on and on."""

import numpy as np
import pytest

from policies.checkpoint import load_policy
from policies.interface import Observation
from policies.robots import get_robot
from sim2real.tasks.swing import main, oscillator, save_swing


def roll(policy, robot, seconds):
    """Commands of a robot that follows them at once, (T, n), 50 Hz."""
    policy.reset(0)
    qpos, rows = robot.default_rad.copy(), []
    for k in range(round(50 * seconds)):
        stamp_ns = 1_000_000_000 + k * 20_000_000
        observation = Observation(stamp_ns=stamp_ns, qpos_rad=qpos, qvel_rad_s=np.zeros(robot.n))
        qpos = policy.act(observation).positions_rad[0]
        rows.append(qpos)
    return np.array(rows)


@pytest.mark.parametrize("name", ["so101", "panda"])
def test_every_joint_swings_from_the_default_pose_and_does_not_stop(name, tmp_path):
    robot = get_robot(name)
    save_swing(tmp_path / "p", robot)
    commands = roll(load_policy(tmp_path / "p", robot), robot, 60.0)
    for part in (commands[:250], commands[-250:]):
        way = np.ptp(part, axis=0)
        assert way == pytest.approx(np.full(robot.n, 0.4), rel=0.05)
    assert np.abs(commands[0] - robot.default_rad).max() < 1e-6
    assert (commands >= robot.lower_rad).all()
    assert (commands <= robot.upper_rad).all()
    speed = np.diff(commands, axis=0) * 50.0
    assert np.abs(speed).max() < 0.36  # 0.2 rad in a period of 4 s: 0.31 rad/s
    assert np.abs(np.diff(speed, axis=0) * 50.0).max() < 1.0


def test_oscillator_is_what_its_recursion_says():
    matrix, vector = oscillator(np.array([0.3]), 2.0, 0.02, 5)
    command, velocity = 0.1, -0.2
    expected = []
    for _ in range(5):
        velocity = velocity - np.pi**2 * 0.02 * (command - 0.3)
        command = command + velocity * 0.02
        expected.append(velocity)
    assert matrix @ [0.1, -0.2] + vector == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--robot", "g1"], "it would fall"),
        (["--robot", "so101", "--amplitude-rad", "5"], "expected an amplitude"),
        (["--robot", "so101", "--period-s", "0"], "expected an amplitude"),
        (["--robot", "so101", "--period-s", "0.5"], "choose a longer period"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "p")]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert "\n" not in error
