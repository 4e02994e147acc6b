"""``realign finetune``: PPO in the simulator that moves like the robot."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from policies.checkpoint import read_checkpoint, save_checkpoint
from policies.checkpoint_files import UNSEALED, check_writable, is_sealed, read_config
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from sim2real.delta.model import SavedDelta, load_delta
from sim2real.finetune.reference import load_reference, nominal_run
from sim2real.finetune.simulator import Randomization, mujoco_simulator, warp_simulator
from sim2real.finetune.train import FinetuneConfig, Finetuned, Progress, finetune
from sim2real.replay.cli import table_text
from sim2real.results import check_new, write_json
from sim2real.sim.gaps import Gap, load_gap


def finetune_command(
    robot: str,
    policy: Path,
    out: Path,
    *,
    delta: Path | None = None,
    motion: Path | None = None,
    randomize: bool = False,
    minutes: float = FinetuneConfig.minutes,
    envs: int = FinetuneConfig.envs,
    physics: Literal["mujoco", "warp"] = "mujoco",
    seed: int = 0,
    overwrite: bool = False,
    json: Path | None = None,
) -> None:
    """Fine-tune a motion policy in the simulator that a frozen delta model has aligned.

    Args:
        robot: robot name.
        policy: checkpoint to start from; it performs one motion by position offsets.
        out: checkpoint to write, of the same kind; `realign run` takes it as it is.
        delta: delta-action model from `realign delta train`, or an identified simulator (a gap
            in a .json file). It may be left out with --randomize.
        motion: what to track, .npz or .json with fps, joint_names, joint_pos (frames, joints),
            root_pos and root_quat_xyzw; default: the motion as the policy performs it in the
            nominal simulator.
        randomize: draw friction, gains, delay and pushes at random, as ASAP's baseline.
        minutes: time for training, min.
        envs: robots side by side; some thousand on a GPU.
        physics: mujoco on the CPU's cores, or warp: MuJoCo Warp on a GPU.
        seed: of everything random.
        overwrite: replace the checkpoint and the results if they exist.
        json: file for machine-readable results.
    """
    spec = get_robot(robot)
    check_writable(out, overwrite=overwrite)
    check_new(json, overwrite=overwrite)
    checkpoint = read_checkpoint(policy)
    model, simulator = _aligned(delta, spec, randomize=randomize)
    base = FinetuneConfig()
    config = replace(
        base,
        minutes=minutes,
        envs=envs,
        randomization=Randomization() if randomize else None,
        ppo=replace(base.ppo, device="cpu" if physics == "mujoco" else "cuda"),
        seed=seed,
    )
    own = nominal_run(checkpoint.config, spec, checkpoint.model)
    reference = load_reference(motion, spec, checkpoint.config, own) if motion else own
    with tqdm(
        total=minutes,
        desc="finetune",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} {postfix}",
    ) as bar:

        def show(progress: Progress) -> None:
            bar.set_postfix_str(_line(progress), refresh=False)
            bar.update(min(progress.minutes, minutes) - bar.n)

        result = finetune(
            checkpoint,
            spec,
            reference,
            delta=model,
            simulator=simulator,
            config=config,
            report=show,
            make=mujoco_simulator if physics == "mujoco" else warp_simulator,
        )
    save_checkpoint(out, result.config, result.model, overwrite=overwrite)
    print(_summary(result))
    print(f"policy: {out}")
    if json:
        content = {
            "robot": robot,
            "policy": result.config.name,
            "reference": reference.name,
            "randomized": randomize,
            "iterations": result.iterations,
            "steps": result.steps,
            "best_iteration": result.iteration,
            "before": asdict(result.before),
            "after": asdict(result.after),
        }
        write_json(json, content)


def _aligned(
    path: Path | None, robot: RobotSpec, *, randomize: bool
) -> tuple[SavedDelta | None, Gap | None]:
    """The delta model and, instead of one, the identified simulator."""
    if path is None:
        if not randomize:
            raise InputError(
                "expected --delta (a model from `realign delta train`, or an identified simulator "
                "as .json) or --randomize, got neither; the nominal simulator has nothing to teach"
            )
        return None, None
    if path.suffix == ".json":
        return None, load_gap(path, robot)
    model = load_delta(path, robot)
    if not is_sealed(read_config(path)[0]):
        print(f"note: {path}: {UNSEALED}")
    return model, None


def _line(progress: Progress) -> str:
    stats, best = progress.stats, progress.best
    return (
        f"reward {stats.reward:.4f}, episode {stats.episode_steps:.0f} ticks, "
        f"best {100 * best.success:.0f} % at update {progress.iteration}"
    )


def _summary(result: Finetuned) -> str:
    rows = [
        (
            name,
            f"{100 * score.success:.0f} %",
            f"{score.tracked:.3f}",
            f"{score.e_mpjpe_mm:.1f}",
        )
        for name, score in (("as given", result.before), ("fine-tuned", result.after))
    ]
    header = ("in the training simulator", "success", "tracking reward", "E_mpjpe, mm")
    kept = f"update {result.iteration} of {result.iterations}" if result.iteration else "no update"
    return f"{table_text(header, rows)}\nkept: {kept}, {result.steps} control ticks simulated"
