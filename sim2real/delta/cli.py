"""``realign delta train``: a delta-action model from episodes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from policies.robots import get_robot
from sim2real.delta.model import check_output, joint_indices
from sim2real.delta.train import DeltaConfig, train_delta
from sim2real.episodes.store import load_episodes
from sim2real.replay.cli import table_text
from sim2real.results import check_new, write_json


def delta_train(
    episodes: Path,
    robot: str,
    out: Path,
    *,
    method: Literal["inverse"] = "inverse",
    joints: tuple[str, ...] = (),
    epochs: int = DeltaConfig.epochs,
    rounds: int = DeltaConfig.rounds,
    history: int | None = DeltaConfig.history,
    limit_rad: float | None = None,
    label_ticks: int = DeltaConfig.label_ticks,
    seed: int = 0,
    overwrite: bool = False,
    json: Path | None = None,
) -> None:
    """Train a delta-action model: what to add to commands so that the simulator matches the log.

    Args:
        episodes: folder of episodes, from `realign episodes build`; some are held out.
        robot: robot name.
        out: folder for the model.
        method: inverse: label each step with the smallest delta that explains it, and regress.
        joints: joints that get a delta, `_joint` may be left out; none for all.
        epochs: most passes over the data.
        rounds: times that the simulator is rolled with the model and the drift labelled anew.
        history: control ticks of history that the model sees; default: the better of 1 and 3.
        limit_rad: largest delta, rad; 0.1 for an arm and 0.5 for a legged robot if not given.
        label_ticks: control ticks that one label explains; more for noisy velocities.
        seed: of initialisation, split and noise.
        overwrite: replace the model and the results if they exist.
        json: file for machine-readable results.
    """
    spec = get_robot(robot)
    check_output(out, overwrite=overwrite)
    check_new(json, overwrite=overwrite)
    joint_indices(spec, joints)
    config = DeltaConfig(
        joints=joints,
        epochs=epochs,
        rounds=rounds,
        history=history,
        limit_rad=limit_rad,
        label_ticks=label_ticks,
        seed=seed,
    )
    logged = load_episodes(episodes, spec)
    with tqdm(
        total=1.0,
        desc="delta",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:

        def show(stage: str, share: float) -> None:
            bar.set_description_str(f"delta: {stage}", refresh=False)
            bar.update(share - bar.n)

        model, report = train_delta(logged, spec, config=config, progress=show)
    model.save(out, overwrite=overwrite)
    labels = report.labels
    print(
        f"{robot}: {labels.count} labels, next-state error {labels.error_before:.4f} -> "
        f"{labels.error_after:.4f} rad/s, {100 * labels.at_limit:.1f} % at the limit"
    )
    rows = [
        (name, f"{1e3 * rms:.2f}")
        for name, rms in zip(spec.joint_names, labels.rms_rad, strict=True)
        if name in model.joints
    ]
    print(table_text(("delta of joint", "RMS, mrad"), rows))
    before, after = report.validation_rmse_rad[0], report.validation_rmse_rad[report.round + 1]
    print(
        f"1 s replay of the held-out episodes: RMSE {before:.5f} -> {after:.5f} "
        f"(round {report.round})"
    )
    print(f"model: {out}")
    if json:
        content = {"robot": robot, "method": method, "joints": list(model.joints), **asdict(report)}
        content["labels"] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(labels).items()
        }
        write_json(json, content)
