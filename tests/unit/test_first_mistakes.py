"""What newcomers get wrong: a missing file, another robot, a bag for episodes, lengths of nothing.

Each is one sentence that says what to do, exit code 2, and nothing is left behind.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from policies.runtime.failure import Failure, PolicyFailureError
from sim2real import cli
from sim2real.demo import panda_checkpoint
from sim2real.run import stop_sentence

REACH = str(panda_checkpoint())


@pytest.fixture
def mistake(tmp_path, monkeypatch, capsys):
    """Calls the command in an empty folder; gives its sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(b"\x89MCAP0\r\n")
    before = sorted(tmp_path.rglob("*"))

    def call(*argv: str) -> str:
        assert cli.main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("realign: ")
        assert captured.err.count("\n") == 1
        assert len(captured.err) < 400, "nobody reads on"
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return captured.err

    return call


@pytest.mark.parametrize(
    "argv",
    [
        "bag info nowhere",
        "bag salvage nowhere out",
        "episodes build nowhere --robot panda --out out",
        "replay nowhere --robot panda",
        "sysid nowhere --robot panda --out out.json",
        "compare nowhere nowhere --robot panda",
        "delta train nowhere --robot panda --out out",
        "finetune --robot g1 --policy nowhere --delta nowhere --out out",
        "run --robot panda --policy nowhere",
        "serve --policy nowhere",
        "policy inspect nowhere",
        "policy bench nowhere",
        "policy export nowhere --out out",
        "policy eval --policy nowhere --task obstacle",
        "policy train nowhere --kind flow --out out",
        "policy import asap nowhere --meta nowhere --name kick --out out",
        "policy import lerobot nowhere --robot so101 --map nowhere --out out",
        "calibrate latency nowhere --robot panda --json out.json",
        "calibrate actuators nowhere --robot panda --json out.json",
        "calibrate joints nowhere --robot panda --stops --json out.json",
        "calibrate play nowhere --robot panda --record out",
        "report nowhere",
    ],
)
def test_a_missing_file_is_named(argv, mistake):
    assert "nowhere" in mistake(*argv.split())


@pytest.mark.parametrize("robot", ["pandas", "franka"])
@pytest.mark.parametrize(
    "argv",
    [
        "run --policy nowhere",
        "episodes build bag --out out",
        "replay bag",
        "delta train bag --out out",
        "calibrate excite --out out.json",
        "calibrate latency bag --json out.json",
    ],
)
def test_an_unknown_robot_is_answered_with_the_known_ones(argv, robot, mistake):
    said = mistake(*argv.split(), "--robot", robot)
    assert robot in said
    assert "'g1', 'go2', 'panda'" in said


def test_policy_of_another_robot_is_refused(mistake):
    said = mistake("run", "--robot", "g1", "--policy", REACH)
    assert "--robot panda" in said


@pytest.mark.parametrize(
    "argv",
    [
        "replay bag --robot panda",
        "sysid bag --robot panda --out out.json",
        "compare bag bag --robot panda",
        "delta train bag --robot panda --out out",
        "policy train bag --kind flow --out out",
    ],
)
def test_bag_instead_of_episodes_leads_to_episodes_build(argv, mistake):
    assert "realign episodes build" in mistake(*argv.split())


def test_policy_is_not_taken_for_a_delta_model(mistake):
    said = mistake("replay", "nowhere", "--robot", "panda", "--delta", REACH)
    assert "realign delta train" in said


def test_policy_without_a_motion_is_not_finetuned(mistake):
    argv = "finetune --robot panda --delta nowhere --out out --policy"
    said = mistake(*argv.split(), REACH)
    assert "performs a motion" in said


def test_policy_of_another_task_is_refused_in_few_words(mistake):
    said = mistake("policy", "eval", "--policy", REACH, "--task", "obstacle")
    assert "trained on this task's demonstrations" in said


def test_other_json_is_no_motion(mistake):
    said = mistake("calibrate", "play", f"{REACH}/config.json", "--robot", "panda", "--record", "o")
    assert "realign calibrate excite" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("--goals", "0"), ("--goals", "-1"), ("--goal-period-s", "0"), ("--duration-s", "0")],
)
def test_run_of_no_length_does_not_start(option, value, mistake):
    pytest.importorskip("rclpy")
    assert f"got {value}" in mistake("run", "--robot", "panda", "--policy", REACH, option, value)


def test_token_without_a_server_is_refused(mistake):
    said = mistake("run", "--robot", "panda", "--policy", REACH, "--token-file", "nowhere")
    assert "ws://" in said


def test_server_that_refuses_us_is_bad_input(mistake, monkeypatch):
    client = pytest.importorskip("policies.serving.client")

    def refuse(config):
        raise PolicyFailureError(Failure.SERVER_REFUSED, f"{config.url}: give its token")

    monkeypatch.setattr(client, "open_session", refuse)
    said = mistake("run", "--robot", "panda", "--policy", "ws://127.0.0.1:9")
    assert "give its token" in said


def _edges(*states: str) -> list[list[object]]:
    names = ["unconfigured", "inactive", "ready", "active", *states]
    reasons = ["sensors_plausible", "operator", "first_chunk"] + ["policy_silent"] * len(states)
    pairs = pairwise(names)
    return [
        [(1 + i) * 10**9, old, new, why]
        for i, ((old, new), why) in enumerate(zip(pairs, reasons, strict=True))
    ]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (("hold", "damp"), "the guard stopped the robot 3.00 s after its sensors came: "),
        (("hold", "active"), "the guard held the robot 3.00 s after its sensors came, and it went"),
    ],
)
def test_stop_says_when_why_and_what_to_try(states, said):
    result = {
        "stopped_by": "policy_silent",
        "policy_failure": None,
        "transitions": _edges(*states),
        "guard": {"state": states[-1]},
    }
    sentence = stop_sentence(result)
    assert sentence.startswith(said)
    assert "policy_silent; no new chunk came in time" in sentence
    assert "--lockstep" in sentence
    failed = stop_sentence(result | {"policy_failure": {"text": "model 'm': got nan"}})
    assert "policy_silent, for model 'm': got nan; docs/faults.md" in failed
