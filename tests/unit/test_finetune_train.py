"""Fine-tuning as a whole: a policy learns to make up for a robot that it was not made for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.actor.config import ActionConfig, ActorConfig
from policies.checkpoint import load_policy, read_checkpoint, save_checkpoint
from policies.processors import TermConfig
from policies.robots import G1, PANDA
from sim2real import cli
from sim2real.finetune.actor import read_actor, write_actor
from sim2real.finetune.evaluate import judge
from sim2real.finetune.reference import nominal_run
from sim2real.finetune.simulator import Randomization
from sim2real.finetune.train import FinetuneConfig, finetune
from sim2real.rl.networks import Mlp
from sim2real.rl.ppo import PpoConfig
from sim2real.sim.gaps import Gap

# Joints that settle off their set-points: what a policy can make up for by its commands.
WRONG_ZERO = Gap(name="wrong_zero", strength={"*": 0.7}, offset_rad={"*": 0.1})


def arm_policy(path, duration_s=0.5):
    """An arm that moves with the phase of its motion; reacts to its joints a little."""
    joints = PANDA.joint_names
    config = ActorConfig(
        name="wave",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=PANDA.control_rate_hz,
        action=ActionConfig(type="position_offset_from_default", joints=joints, scale=0.25),
        hold_pose_rad={},
        observation=(
            TermConfig(term="joint_pos"),
            TermConfig(term="joint_vel", scale=0.1),
            TermConfig(term="motion_phase", scale=3.0),
        ),
        duration_s=duration_s,
        start_pose_rad=dict(zip(joints, PANDA.default_rad.tolist(), strict=True)),
        source={"format": "test", "origin": "a random network"},
    )
    save_checkpoint(path, config, write_actor(Mlp([15, 32, 7], seed=2)))
    return read_checkpoint(path)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
SMALL = FinetuneConfig(envs=16, evaluate_envs=4, evaluate_every=2, iterations=2)


def test_two_updates_give_a_policy_that_runs_as_it_is(tmp_path):
    checkpoint = arm_policy(tmp_path / "wave")
    reference = nominal_run(checkpoint.config, PANDA, checkpoint.model)
    seen = []
    result = finetune(
        checkpoint, PANDA, reference, simulator=WRONG_ZERO, config=SMALL, report=seen.append
    )
    assert [p.iteration for p in seen] == [1, 2]
    assert [p.stats.std for p in seen] == pytest.approx([0.2, 0.2 / 2**0.5])  # on its way to 0.1
    assert (result.iterations, result.steps) == (2, 2 * 24 * 16)
    assert result.after.tracked >= result.before.tracked  # the best is kept, the given one at least
    save_checkpoint(tmp_path / "out", result.config, result.model)
    policy = load_policy(tmp_path / "out", PANDA)
    assert policy.spec.name == "wave_finetuned"
    source = read_checkpoint(tmp_path / "out").config.source
    assert source["parent_sha256"] == checkpoint.sha256
    assert source["parent_origin"] == "a random network"
    assert source["reference"] == "nominal run of wave"
    assert source["simulator"] == "wrong_zero"
    verdict = judge(policy, PANDA, reference, gap=WRONG_ZERO, seeds=[0])
    assert verdict.success == (True,)


def test_the_critic_warms_up_before_the_actor_moves(tmp_path):
    checkpoint = arm_policy(tmp_path / "wave")
    reference = nominal_run(checkpoint.config, PANDA, checkpoint.model)
    result = finetune(checkpoint, PANDA, reference, simulator=WRONG_ZERO, config=SMALL)
    assert result.iteration == 0  # two updates are within the warm-up
    before, after = read_actor(checkpoint.model, ""), read_actor(result.model, "")
    for a, b in zip(before.arrays()[0], after.arrays()[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_actor_can_be_kept_instead_of_the_best(tmp_path):
    checkpoint = arm_policy(tmp_path / "wave")
    reference = nominal_run(checkpoint.config, PANDA, checkpoint.model)
    wild = replace(SMALL, keep_best=False, ppo=PpoConfig(actor_lr=0.01, target_kl=None))
    result = finetune(checkpoint, PANDA, reference, config=wild)
    assert result.iteration == 2
    assert result.after.tracked < result.before.tracked  # nominal: the given one was the best


@pytest.mark.slow
@pytest.mark.parametrize("randomized", [False, True])
def test_fine_tuning_makes_up_for_the_robot(tmp_path, randomized):
    """Slow: a minute of PPO brings an arm whose encoders are off back to its motion."""
    checkpoint = arm_policy(tmp_path / "wave")
    reference = nominal_run(checkpoint.config, PANDA, checkpoint.model)
    config = FinetuneConfig(
        envs=64,
        iterations=80,
        evaluate_every=10,
        std=(0.1, 0.1),
        randomization=Randomization(draws=4, delay_s=(0.0, 0.01)) if randomized else None,
    )
    result = finetune(checkpoint, PANDA, reference, simulator=WRONG_ZERO, config=config)
    assert result.after.e_mpjpe_mm < 0.6 * result.before.e_mpjpe_mm
    save_checkpoint(tmp_path / "out", result.config, result.model)
    seeds = range(100, 105)
    vanilla, tuned = (
        judge(load_policy(tmp_path / name, PANDA), PANDA, reference, gap=WRONG_ZERO, seeds=seeds)
        for name in ("wave", "out")
    )
    assert tuned.means()[0].mean() < 0.6 * vanilla.means()[0].mean()


# ---- command line ------------------------------------------------------------------------------


def run(*words):
    return cli.main(["finetune", *map(str, words)])


@pytest.fixture
def policy(tmp_path):
    arm_policy(tmp_path / "wave")
    return tmp_path / "wave"


def test_command_writes_a_policy_and_results(tmp_path, policy, capsys):
    WRONG_ZERO.save(tmp_path / "gap.json", PANDA)
    common = ["--robot", "panda", "--policy", policy, "--envs", 8, "--minutes", 0.01]
    out = ["--out", tmp_path / "out", "--json", tmp_path / "r.json"]
    assert run(*common, *out, "--delta", tmp_path / "gap.json") == 0
    printed = capsys.readouterr().out
    assert "as given" in printed
    assert "fine-tuned" in printed
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["policy"] == "wave_finetuned"
    assert facts["iterations"] >= 1
    assert facts["after"]["tracked"] >= facts["before"]["tracked"]
    assert load_policy(tmp_path / "out", PANDA).spec.duration_s == 0.5
    # Nothing is replaced by accident.
    assert run(*common, *out, "--delta", tmp_path / "gap.json") == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected --delta"),
        (["--delta", "missing"], "expected a delta model"),
        (["--delta", "g1.json"], "expected a gap of panda"),
        (["--delta", "gap.json", "--motion", "missing.npz"], "expected a motion"),
        (["--randomize", "--envs", "0"], "envs"),
        pytest.param(["--randomize", "--physics", "warp"], "Warp", marks=NO_GPU),
        (["--randomize", "--minutes", "-1"], "minutes"),
        (["--robot", "g1", "--randomize"], "expected the robot panda"),
        (["--policy", "missing", "--randomize"], "expected a policy checkpoint"),
    ],
)
def test_bad_input_ends_with_one_sentence(tmp_path, policy, words, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRONG_ZERO.save(tmp_path / "gap.json", PANDA)
    Gap(name="other").save(tmp_path / "g1.json", G1)
    given = {"--robot": "panda", "--policy": str(policy), "--out": str(tmp_path / "out")}
    given |= {w: words[i + 1] for i, w in enumerate(words) if w in given}
    rest = [
        w for i, w in enumerate(words) if w not in given and (not i or words[i - 1] not in given)
    ]
    assert run(*(x for pair in given.items() for x in pair), *rest) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
