"""From demonstrations to an evaluation by instruction, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.vla import instructions as instructions_module
from sim2real.cli import main

pytest.importorskip("av")


@pytest.fixture(autouse=True)
def _encoder(monkeypatch):
    def encode(text: str) -> np.ndarray:
        rng = np.random.default_rng(list(text.encode()))
        return rng.standard_normal((4, 16)).astype(np.float16).astype(np.float32)

    monkeypatch.setattr(instructions_module, "encode", encode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Demonstrations of all four tasks."""
    out = tmp_path_factory.mktemp("language")
    words = ["policy", "demos", "--task", "language-touch", "--episodes", "4"]
    assert main([*words, "--out", f"{out}/demos"]) == 0
    return out


def test_train_inspect_and_evaluate_by_instruction(folder, capsys):
    policy = f"{folder}/touch"
    words = ["policy", "train", f"{folder}/demos", "--kind", "vla", "--out", policy]
    words += ["--robot", "panda", "--width", "32", "--depth", "1", "--steps", "4"]
    assert main([*words, "--batch", "4", "--observation-horizon", "1"]) == 0
    assert main(["policy", "inspect", policy]) == 0
    printed = capsys.readouterr().out
    assert "instructions 4 known" in printed
    assert "front 64 x 64, hand 64 x 64" in printed
    words = ["policy", "eval", "--policy", policy, "--task", "language-touch-red"]
    words += ["--episodes", "1", "--steps", "1", "--instruction", "touch the green cube"]
    assert main([*words, "--json", f"{folder}/result.json"]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["instruction"] == "touch the green cube"
    assert result["task"] == "language-touch-red"
    capsys.readouterr()
    assert main(["policy", "eval", "--policy", policy, "--task", "obstacle"]) == 2
    assert "expected a task with instructions" in capsys.readouterr().err


def test_training_goes_on_with_replay_of_what_was_learnt(folder, capsys):
    shape = ["--width", "32", "--depth", "1", "--steps", "2", "--batch", "4"]
    words = ["policy", "train", f"{folder}/demos", *shape, "--observation-horizon", "1"]
    told = [*words, "--kind", "vla", "--robot", "panda"]
    assert main([*told, "--out", f"{folder}/first"]) == 0
    again = [*told, "--glance-steps", "1", "--replay", f"{folder}/demos"]
    assert main([*again, "--init", f"{folder}/first", "--out", f"{folder}/second"]) == 0
    rates = []
    for name in ("first", "second"):
        config = json.loads((folder / name / "config.json").read_text())
        rates.append(config["embodiments"]["panda"]["provenance"]["learning_rate"])
    assert rates == ["0.001", "0.0003"]
    capsys.readouterr()
    assert main([*again, "--out", f"{folder}/third"]) == 2
    assert "there is no --init" in capsys.readouterr().err
    flow = [*words, "--kind", "flow", "--replay", f"{folder}/demos", "--out", f"{folder}/flow"]
    assert main(flow) == 2
    assert "kind vla" in capsys.readouterr().err


def test_a_dataset_says_what_was_asked_for(folder):
    import pyarrow.parquet as pq

    tasks = pq.read_table(folder / "demos" / "meta" / "tasks.parquet")["task"].to_pylist()
    assert len(tasks) == 4
    assert all(any(name in t for t in tasks) for name in ("red", "green", "blue", "yellow"))
