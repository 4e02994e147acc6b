"""``realign policy demos`` and ``realign policy eval`` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.datasets.demonstrations import load_demonstrations
from sim2real.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Demonstrations and a policy that has hardly learnt anything."""
    out = tmp_path_factory.mktemp("policies")
    assert main(["policy", "demos", "--task", "obstacle", "--out", f"{out}/demos"]) == 0
    train = ["policy", "train", f"{out}/demos", "--kind", "flow", "--out", f"{out}/flow"]
    assert main([*train, "--steps", "60", "--width", "32", "--depth", "1", "--batch", "64"]) == 0
    return out


def evaluated(folder: Path, name: str, *words: str) -> dict:
    command = ["policy", "eval", "--policy", f"{folder}/flow", "--task", "obstacle"]
    command += ["--episodes", "6", "--batch", "4", "--json", f"{folder}/{name}.json", *words]
    assert main(command) == 0
    return json.loads((folder / f"{name}.json").read_text())


def timeless(content: dict) -> dict:
    return {key: value for key, value in content.items() if not key.startswith("time_")}


def test_demonstrations_are_those_of_the_seed(folder, tmp_path):
    data = load_demonstrations(folder / "demos")
    assert len(data) == 50
    assert data.task == ["obstacle"] * 50
    command = ["policy", "demos", "--task", "obstacle", "--episodes", "3", "--out"]
    assert main([*command, f"{tmp_path}/same"]) == 0
    assert main([*command, f"{tmp_path}/other", "--seed", "1"]) == 0
    same, other = (load_demonstrations(tmp_path / name) for name in ("same", "other"))
    np.testing.assert_array_equal(same.state[2], data.state[2])
    assert not np.array_equal(other.state[0], data.state[0])


def test_evaluation_writes_what_it_measured_and_repeats(folder, capsys):
    options = ("--executor", "rtc", "--delay-steps", "2", "--drop", "0.2", "--seed", "3")
    one = evaluated(folder, "one", *options)
    printed = capsys.readouterr().out
    assert one["policy"] == "flow"
    assert (one["executor"], one["delay_steps"], one["drop"]) == ("rtc", 2, 0.2)
    assert one["episodes"] == 6
    low, high = one["success_ci95"]
    assert 0.0 <= low <= one["success"] <= high <= 1.0
    assert one["network_calls_per_answer"] == 10.0
    assert one["time_per_action_ms"]["p50"] <= one["time_per_action_ms"]["p99"]
    assert f"{one['successes']} of 6" in printed
    assert timeless(evaluated(folder, "again", *options)) == timeless(one)
    other = evaluated(folder, "other", *options[:-1], "4")
    assert timeless(other) != timeless(one) | {"seed": 4}


def test_sampler_and_steps_reach_the_model(folder):
    assert evaluated(folder, "steps", "--steps", "3")["network_calls_per_answer"] == 3.0
    adaptive = evaluated(folder, "adaptive", "--sampler", "adaptive", "--tolerance", "1000")
    assert adaptive["network_calls_per_answer"] == 1.0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--task", "obstacl"], "obstacl"),
        (["--task", "panda-ball"], "state entries"),
        (["--drop", "1.5"], "drop"),
        (["--sampler", "ddim"], "sampler"),
        (["--action-horizon", "17"], "action_horizon"),
        (["--json", "{folder}/there.json"], "there.json exists"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, words, named, capsys):
    (folder / "there.json").write_text("{}")
    command = ["policy", "eval", "--policy", f"{folder}/flow"]
    command += [] if "--task" in words else ["--task", "obstacle"]
    assert main([*command, *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


def test_demonstrations_are_not_overwritten(folder, capsys):
    assert main(["policy", "demos", "--task", "obstacle", "--out", f"{folder}/demos"]) == 2
    assert "--overwrite" in capsys.readouterr().err
