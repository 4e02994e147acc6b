"""The pytest plugin: the tutorial's tests pass with a good policy and fail with a bad one."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from policies.actor.mlp import mlp_onnx
from policies.checkpoint import read_checkpoint, save_checkpoint
from policies.errors import InputError
from policies.robots import PANDA
from sim2real.sim.kinematics import Kinematics
from sim2real.testing import loop
from sim2real.testing.link import FaultyLink, LinkFaults

pytest_plugins = ["pytester"]
# Loaded here once: a run inside a test forgets what it has imported itself.
LOADED = (Kinematics, loop)
REPO = Path(__file__).resolve().parents[2]
GOOD = REPO / "policies/checkpoints/panda_reach"
TUTORIAL = REPO / "docs/tutorials/sim_in_the_loop_test.md"
OPTIONS = ("-p", "sim2real.testing.plugin", "-p", "no:cacheprovider", "-p", "no:xdist")


def tutorial_tests() -> str:
    """The test file that the tutorial shows, and the test of its section on the guard."""
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), flags=re.DOTALL)
    shown = [block for block in blocks if "def test_" in block and "realign_graph" not in block]
    assert len(shown) == 2
    return "\n\n".join(shown)


@pytest.fixture
def bad_policy(tmp_path):
    """A policy for the Panda that stays where it is, whatever the goal."""
    from policies.actor.config import ActionConfig, ActorConfig
    from policies.processors import TermConfig

    config = ActorConfig(
        name="lazy",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(
            type="position_offset_from_default", joints=PANDA.joint_names, scale=0.5
        ),
        hold_pose_rad={},
        observation=(TermConfig(term="goal_position"),),
        duration_s=None,
        start_pose_rad=dict(zip(PANDA.joint_names, PANDA.default_rad.tolist(), strict=True)),
    )
    model = mlp_onnx([np.zeros((7, 3), np.float32)], [np.zeros(7, np.float32)])
    save_checkpoint(tmp_path / "lazy", config, model)
    return read_checkpoint(tmp_path / "lazy") and tmp_path / "lazy"


def run(pytester, policy, *more):
    pytester.makepyfile(test_policy=tutorial_tests())
    options = (*OPTIONS, "--realign-robot", "panda", "--realign-policy", str(policy), *more)
    return pytester.runpytest_inprocess(*options)


def test_good_policy_passes(pytester):
    run(pytester, GOOD).assert_outcomes(passed=4)


def test_bad_policy_fails_and_the_failure_says_how_often(pytester, bad_policy):
    result = run(pytester, bad_policy)
    result.assert_outcomes(failed=2, passed=2)  # it misses its goals, but it does behave
    result.stdout.fnmatch_lines(["*0 of 6 runs succeeded (0 % [[]0, 39[]]), 0 fell*"])


def test_without_options_the_tests_are_skipped(pytester):
    pytester.makepyfile(test_policy=tutorial_tests())
    pytester.runpytest_inprocess(*OPTIONS).assert_outcomes(skipped=4)


def test_bad_options_are_named(pytester, tmp_path):
    broken = shutil.copytree(GOOD, tmp_path / "broken")
    (broken / "encoder.onnx").write_bytes(b"x")
    for policy, word in ((tmp_path / "none", "not there"), (broken, "sha256")):
        result = run(pytester, policy)
        result.assert_outcomes(errors=4)
        assert word in result.stdout.str()
    result = run(pytester, GOOD, "--realign-robot", "r2d2")
    assert "expected a robot out of" in result.stdout.str()


# ---- the connection that the fixtures take -----------------------------------------------------


def through(faults, count=2000, seed=0):
    link = FaultyLink(faults, seed=seed)
    arrived = []
    for k in range(count):
        link.send(k, k * 10_000_000)
        arrived += link.receive(k * 10_000_000)
    return link, arrived + link.receive(10**18)


def test_link_is_transparent_without_faults():
    assert through(LinkFaults())[1] == list(range(2000))


def test_link_loses_repeats_and_reorders_as_told():
    link, arrived = through(LinkFaults(drop=0.2, duplicate=0.1, jitter_s=0.05))
    assert 0.17 < link.lost / link.sent < 0.23
    assert len(set(arrived)) == link.sent - link.lost
    repeated = len(arrived) - len(set(arrived))
    assert 0.07 < repeated / len(set(arrived)) < 0.13
    assert arrived != sorted(arrived)
    assert through(LinkFaults(drop=0.2, duplicate=0.1, jitter_s=0.05))[1] == arrived
    assert through(LinkFaults(drop=0.2, duplicate=0.1, jitter_s=0.05), seed=1)[1] != arrived


def test_link_delays_and_goes_down():
    link = FaultyLink(LinkFaults(delay_s=0.1, outages=((1.0, 0.5),)))
    link.send("a", 0)
    assert link.receive(99_000_000) == []
    assert link.next_ns == 100_000_000
    assert link.receive(100_000_000) == ["a"]
    for t_s in (0.99, 1.0, 1.49, 1.5):
        link.send(t_s, round(t_s * 1e9))
    assert link.receive(10**10) == [0.99, 1.5]


@pytest.mark.parametrize("wrong", [{"drop": 1.5}, {"duplicate": -0.1}, {"delay_s": float("nan")}])
def test_link_refuses_what_makes_no_sense(wrong):
    with pytest.raises(InputError):
        LinkFaults(**wrong)
