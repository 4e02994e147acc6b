"""``realign delta train``: a delta-action model from episodes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from tqdm import tqdm

from policies.checkpoint_files import check_writable
from policies.robots import get_robot
from sim2real.baselines.parameter_fit import SysIdConfig
from sim2real.baselines.sysid import identify
from sim2real.delta.findings import finding_rows, findings
from sim2real.delta.model import DeltaModel, joint_indices
from sim2real.delta.ppo import PpoDeltaConfig, PpoDeltaReport, train_ppo_delta
from sim2real.delta.ppo_model import PpoDelta
from sim2real.delta.train import DeltaConfig, TrainReport, train_delta
from sim2real.episodes.store import load_episodes
from sim2real.replay.cli import table_text
from sim2real.results import check_new, write_json
from sim2real.sim.gaps import make_gap

_IDENTIFY = "identify"


def delta_train(
    episodes: Path,
    robot: str,
    out: Path,
    *,
    method: Literal["inverse", "ppo"] = "inverse",
    joints: tuple[str, ...] = (),
    simulator: str = "none",
    networks: bool = DeltaConfig.networks,
    window: int | None = DeltaConfig.window,
    epochs: int = DeltaConfig.epochs,
    rounds: int = DeltaConfig.rounds,
    horizon_s: float | None = DeltaConfig.horizon_s,
    limit_rad: float | None = None,
    minutes: float = PpoDeltaConfig.minutes,
    iterations: int | None = None,
    envs: int = PpoDeltaConfig.envs,
    seed: int = 0,
    overwrite: bool = False,
    json: Path | None = None,
) -> None:
    """Train a delta-action model: what to add to commands so that the simulator matches the log.

    Args:
        episodes: folder of episodes, from `realign episodes build`; some are held out.
        robot: robot name.
        out: folder for the model.
        method: inverse: solve for the delta that explains the log; ppo: learn it by reinforcement
            learning as ASAP does, to compare with. Options of the other method have no effect.
        joints: joints that get a delta, `_joint` may be left out; none for all.
        simulator: dynamics gap of the simulator to correct: the JSON of `realign sysid`, a name,
            or `identify` to identify the robot from the same episodes first; slower, and best
            where the difference is one that parameters describe.
        networks: networks on top of the motor terms, where they help on held-out motions.
        window: ticks of history that the networks see; default: the better of 1 and 3.
        epochs: most passes of the networks over the data.
        rounds: times that the simulator is rolled with the model and the drift labelled anew.
        horizon_s: length of the windows that the motor terms are fitted to, s; default: the
            better of 0.08 and 0.12, for an arm of 0.12 and 0.4.
        limit_rad: largest delta, rad; 0.1 for an arm and 0.5 for a legged robot if not given.
        minutes: time for training with ppo, min.
        iterations: most rollouts of ppo; as many as the time allows if not given.
        envs: robots side by side in ppo.
        seed: of initialisation, split and noise.
        overwrite: replace the model and the results if they exist.
        json: file for machine-readable results.
    """
    spec = get_robot(robot)
    check_writable(out, overwrite=overwrite)
    check_new(json, overwrite=overwrite)
    joint_indices(spec, joints)
    gap = None if simulator == _IDENTIFY else make_gap(spec, simulator)
    logged = load_episodes(episodes, spec)
    common = _Common(joints=joints, limit_rad=limit_rad, seed=seed)
    with tqdm(
        total=1.0,
        desc="delta",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:

        def show(stage: str, share: float) -> None:
            bar.set_description_str(f"delta: {stage}", refresh=False)
            bar.update(share - bar.n)

        if gap is None:
            config = SysIdConfig(seed=seed)
            gap = identify(logged, spec, config=config, progress=lambda _, s: show("sysid", s))[0]
        if method == "ppo":
            learning = PpoDeltaConfig(**common, minutes=minutes, iterations=iterations, envs=envs)
            learned = train_ppo_delta(logged, spec, config=learning, simulator=gap, progress=show)
        else:
            solving = DeltaConfig(
                **common,
                networks=networks,
                window=window,
                epochs=epochs,
                rounds=rounds,
                horizon_s=horizon_s,
            )
            solved = train_delta(logged, spec, config=solving, simulator=gap, progress=show)
    model = learned[0] if method == "ppo" else solved[0]
    model.save(out, overwrite=overwrite)
    if method == "ppo":
        _print_ppo(*learned)
    else:
        _print(*solved)
    print(f"simulator that it corrects: {model.simulator.name}\nmodel: {out}")
    if json:
        write_json(json, _ppo_content(*learned) if method == "ppo" else _content(*solved, method))


class _Common(TypedDict):
    """Settings that both methods have."""

    joints: tuple[str, ...]
    limit_rad: float | None
    seed: int


def _print_ppo(model: PpoDelta, report: PpoDeltaReport) -> None:
    first, last = report.reward
    print(
        f"{model.robot.name}: {report.iterations} rollouts, {report.steps} steps, "
        f"reward of a second {first:.3f} -> {last:.3f}"
    )
    rows = [(name, f"{error:.5f}") for name, error in report.errors.items()]
    print(table_text(("up to 1 s of replay of the motions it was trained on", "error"), rows))


def _ppo_content(model: PpoDelta, report: PpoDeltaReport) -> dict[str, object]:
    return {
        "robot": model.robot.name,
        "method": "ppo",
        "joints": list(model.joints),
        "simulator": model.simulator.to_json(),
        "rollouts": report.iterations,
        "steps": report.steps,
        "reward_per_s": list(report.reward),
        "error": report.errors,
    }


def _print(model: DeltaModel, report: TrainReport) -> None:
    motor, labels, robot = report.motor, report.labels, model.robot
    print(
        f"{robot.name}: motor terms {', '.join(motor.terms) or 'none'}; they explain "
        f"{100 * motor.explained:.0f} % of the replay error of motions left out of their fit"
    )
    rows = finding_rows(robot, motor)
    print(table_text(("joint", "what the log suggests"), rows) if rows else "no joint stands out")
    print(
        f"\n{labels.count} labels of the rest: next-state error {labels.error_before:.4f} -> "
        f"{labels.error_after:.4f} rad/s, {100 * labels.at_limit:.1f} % at the limit"
    )
    kept = [
        (name + (" *" if name == report.chosen else ""), f"{error:.5f}")
        for name, error in report.errors.items()
    ]
    print(table_text(("up to 1 s of replay of a held-out motion (* kept)", "error"), kept))


def _content(model: DeltaModel, report: TrainReport, method: str) -> dict[str, object]:
    labels = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(report.labels).items()
    }
    return {
        "robot": model.robot.name,
        "method": method,
        "joints": list(model.joints),
        "simulator": model.simulator.to_json(),
        "terms": list(report.motor.terms),
        "horizon_ticks": report.motor.ticks,
        "explained": report.motor.explained,
        "findings": [asdict(found) for found in findings(model.robot, report.motor)],
        "labels": labels,
        "samples": report.samples,
        "held_out_error": report.errors,
        "chosen": report.chosen,
        "gain": model.gain,
    }
