"""Meta-World tasks by instruction. Skipped where Meta-World is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.diffusion.config import NetworkConfig
from policies.errors import InputError
from policies.evaluation.environment import Environment
from policies.vla.commands import save_trained
from policies.vla.trainer import VlaTrainConfig, train_vla
from sim2real.tasks.language_metaworld import (
    NAMES,
    TASKS,
    LanguageMetaWorld,
    LanguageMetaWorldExpert,
    phrases,
)
from sim2real.tasks.language_phrases import PHRASINGS
from sim2real.tasks.registry import make_environment, make_expert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def every() -> LanguageMetaWorld:
    pytest.importorskip("metaworld", reason="needs realign[metaworld]")
    return LanguageMetaWorld()


def test_phrases_say_one_thing_each():
    everything = [text for name in NAMES for p in PHRASINGS for text in phrases(name, p)]
    assert len(set(everything)) == len(everything)
    with pytest.raises(InputError, match="dance"):
        phrases("dance", "train")


def test_runs_take_turns_and_say_what_they_are_about(every):
    assert isinstance(every, Environment)
    for seed in range(8):
        seen = every.reset(seed)
        assert every.deed == NAMES[seed % len(NAMES)]
        assert seen.instruction in phrases(every.deed, "train")
        assert every.step(np.zeros(4)).seen.instruction == seen.instruction


def test_the_instruction_can_be_another_than_the_task(every):
    one = LanguageMetaWorld("language-metaworld-push", instruction="open the drawer")
    assert one.reset(0).instruction == "open the drawer"
    assert one.deed == "push"
    held_out = LanguageMetaWorld("language-metaworld-push", phrasing="held-out")
    assert held_out.reset(0).instruction in phrases("push", "held-out")
    with pytest.raises(InputError, match="language-metaworld-reach"):
        LanguageMetaWorld("language-metaworld-dance")


def test_the_registry_makes_them_with_an_expert_who_succeeds(every):
    made = [make_environment(task) for task in TASKS]
    assert [environment.spec.name for environment in made] == list(TASKS)
    assert isinstance(make_expert(every), LanguageMetaWorldExpert)
    data = collect(every, make_expert(every), episodes=8, noise=0.1)
    data.check()
    asked = {name for name in NAMES for text in data.task if text in phrases(name, "train")}
    assert asked == set(NAMES)


def test_a_policy_without_cameras_can_be_trained_and_exported(every, tmp_path):
    data = collect(every, LanguageMetaWorldExpert(every), episodes=4)

    def encoder(text: str) -> np.ndarray:
        rng = np.random.default_rng(list(text.encode()))
        return rng.standard_normal((3, 16)).astype(np.float16).astype(np.float32)

    config = VlaTrainConfig(
        name="told",
        network=NetworkConfig(type="transformer", width=32, depth=1),
        steps=4,
        batch=8,
        device="cpu",
    )
    trained = train_vla({"sawyer": data}, config, encoder=encoder)
    assert save_trained(trained, tmp_path / "told", overwrite=False)["passed"]
