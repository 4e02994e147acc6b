"""A policy runs in the graph, its bag becomes episodes, and these train the next policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.diffusion.interface import CameraSpec
from policies.robots import PANDA
from policies.vla import instructions as instructions_module
from policies.vla.checkpoint import read_vla
from sim2real.bags.reader import read_bag
from sim2real.cli import main
from sim2real.episodes.store import load_episodes
from sim2real.tasks.camera_scene import CameraScene

pytest.importorskip("av")
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(1200)]
TINY = ["--steps", "2", "--batch", "4", "--observation-horizon", "1", "--width", "32"]
SECONDS = 1.5


@pytest.fixture
def _encoder(monkeypatch):
    """Words as noise; the graph's own processes find the vectors in the checkpoint."""

    def encode(text: str) -> np.ndarray:
        rng = np.random.default_rng(list(text.encode()))
        return rng.standard_normal((4, 16)).astype(np.float16).astype(np.float32)

    monkeypatch.setattr(instructions_module, "encode", encode)


def call(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture
def policy(tmp_path, _encoder) -> Path:
    """A tiny policy that has seen two demonstrations."""
    call("policy", "demos", "--task", "language-touch", "--episodes", 2, "--out", tmp_path / "d")
    words = ["policy", "train", tmp_path / "d", "--kind", "vla", "--robot", "panda", "--depth", 1]
    call(*words, "--out", tmp_path / "first", *TINY)
    return tmp_path / "first"


def run(policy: Path, bag: Path, seed: int, instruction: str, domain: int, *more: object) -> dict:
    out = bag.with_suffix(".json")
    words = ["run", "--robot", "panda", "--policy", policy, "--lockstep", "--seed", seed]
    words += ["--duration-s", SECONDS, "--instruction", instruction, "--domain-id", domain]
    call(*words, "--record", bag, "--json", out, *more)
    return json.loads(out.read_text())


def test_a_recorded_run_trains_the_next_policy(policy, tmp_path, domain, capsys):
    known = read_vla(policy).config.instructions
    result = run(policy, tmp_path / "a", 3, known[0], domain, "--record-images", "lossless")
    images = round(SECONDS * 10)
    counts = {"received": images, "written": images, "dropped": 0, "lost": 0, "refused": 0}
    assert result["images"] == {"front": counts, "hand": counts}
    run(policy, tmp_path / "b", 4, known[1], domain, "--record-images", "lossless")
    bag = read_bag(tmp_path / "a")
    assert bag.columns("/policy/instruction").text == (known[0],)
    assert bag.info.provenance["camera.hand.written"] == str(images)

    bags = [tmp_path / "a", tmp_path / "b"]
    build = ["episodes", "build", *bags, "--robot", "panda", "--rate-hz", 10]
    call(*build, "--out", tmp_path / "episodes", "--json", tmp_path / "built.json")
    assert json.loads((tmp_path / "built.json").read_text())["cameras"]["front"]["missing"] == 0
    episodes = load_episodes(tmp_path / "episodes", PANDA)
    assert [e.task for e in episodes] == [known[0], known[1]]
    cameras = [CameraSpec(name=name, height=64, width=64) for name in ("front", "hand")]
    for episode, seed, other in zip(episodes, (3, 4), (4, 3), strict=True):
        for step in (0, len(episode) - 1):
            right, wrong = (
                CameraScene(PANDA, cameras, s).images(episode.qpos_rad[step]) for s in (seed, other)
            )
            for name in ("front", "hand"):
                seen = episode.images[name].rgb(step).astype(int)
                assert np.abs(seen - right[name]).mean() < 0.2, "what was there to be seen"
                assert np.abs(seen - wrong[name]).mean() > 0.2

    words = ["policy", "train", tmp_path / "episodes", "--robot", "panda"]
    tuned = tmp_path / "tuned"
    call(*words, "--kind", "vla", "--init", policy, "--out", tuned, "--depth", 1, *TINY)
    call(*words, "--kind", "flow", "--out", tmp_path / "other", *TINY)
    capsys.readouterr()
    call("policy", "inspect", tmp_path / "other")
    assert "front 64 x 64, hand 64 x 64" in capsys.readouterr().out
    words = ["policy", "eval", "--policy", tuned, "--task", "language-touch-red"]
    call(*words, "--episodes", 1, "--steps", 1, "--instruction", known[0])
    again = run(tuned, tmp_path / "c", 5, known[1], domain, "--record-images", "none")
    assert again["images"] == {}
    assert again["policy_failure"] is None
    assert all("image" not in t.type for t in read_bag(tmp_path / "c").info.topics)
