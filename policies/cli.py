"""Commands ``realign policy ...``: plain functions, of which the command line is made."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any, Literal

from policies.errors import InputError

Kind = Literal["ddpm", "edm", "flow", "streaming", "vqbet", "mlp", "vla"]


def policy_import_asap(
    onnx: Path, *, meta: Path, name: str, out: Path, overwrite: bool = False
) -> None:
    """Import one of ASAP's motion-tracking policies (Unitree G1, 50 Hz).

    Args:
        onnx: the network, as ASAP exports it.
        meta: JSON with joints, default pose (rad), action scale, and per policy the motion
            length (s) and start pose (rad).
        name: which of the policies in ``meta`` it is.
        out: checkpoint directory to create.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: see :func:`policies.actor.asap.import_asap`.
    """
    from policies.actor.asap import import_asap

    config = import_asap(onnx, meta, name, out, overwrite=overwrite)
    print(f"{out}: policy {config.name} for {config.robot}, {config.duration_s:g} s of motion")
    print(f"note: {config.source['note']}")


def policy_import_lerobot(
    folder: Path,
    *,
    robot: str,
    map: Path,
    out: Path,
    vlm: Path | None = None,
    dataset_info: Path | None = None,
    python: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import a checkpoint of LeRobot: ACT, Diffusion, VQ-BeT or SmolVLA.

    It is evaluated in an interpreter that has LeRobot (--python, or REALIGN_LEROBOT_PYTHON, which
    every command that runs the policy reads). Where there is one, the checkpoint is tried in it.

    Args:
        folder: LeRobot's checkpoint folder with config.json, weights and processor files.
        robot: robot that it shall run on.
        map: JSON that says which joint, unit (rad, degrees, -100..100, 0..100) and camera each
            number and image of the checkpoint is, and the rate (Hz).
        out: checkpoint directory to create.
        vlm: folder with settings and tokenizer of the vision-language model of a SmolVLA.
        dataset_info: meta/info.json of the dataset that it was trained on, to compare names and
            rate with the map.
        python: interpreter that has LeRobot.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: checkpoint, map and robot do not fit together, or LeRobot cannot load it.
    """
    from policies.robots import get_robot
    from policies.vla.lerobot.checkpoint import import_lerobot
    from policies.vla.lerobot.model import RunConfig
    from policies.vla.lerobot.process import PYTHON_VARIABLE, find_python

    python = find_python(python)
    made = import_lerobot(
        folder,
        get_robot(robot),
        map,
        out,
        vlm=vlm,
        dataset_info=dataset_info,
        trial=None if python is None else RunConfig(python=python),
        overwrite=overwrite,
    )
    config, tried = made.config, made.tried
    kind = config.provenance["kind"]
    print(f"{out}: {kind} policy {config.name} for {robot}, {config.rate_hz:g} Hz")
    if tried:
        print(
            f"tried in LeRobot {tried['version']} on {tried['device']}: {tried['parameters']} "
            "weights, finite answers"
        )
    else:
        print(f"note: not tried; give --python or set {PYTHON_VARIABLE} to try it in LeRobot")


def policy_inspect(policy: Path, *, json: Path | None = None) -> None:
    """Check a policy checkpoint and show what it needs.

    Args:
        policy: checkpoint directory.
        json: also write all of it to this file, which must not exist.

    Raises:
        InputError: the checkpoint is damaged or does not fit its robot, or ``json`` exists.
    """
    from policies.checkpoint import inspect
    from policies.checkpoint_files import UNSEALED, is_sealed, read_config
    from policies.summary import summary_lines

    _new_file(json)
    info = inspect(policy)
    _write(info, json)
    for label, text in summary_lines(info):
        print(f"{label:<13}{text}")
    if "files" in info and not is_sealed(read_config(policy)[0]):
        print(f"note         {UNSEALED}")


def policy_train(
    demonstrations: Path,
    *,
    kind: Kind,
    out: Path,
    network: Literal["resmlp", "unet", "transformer"] = "resmlp",
    width: int = 256,
    depth: int = 3,
    observation_horizon: int = 2,
    prediction_horizon: int = 16,
    action_horizon: int = 8,
    context_depth: int = 2,
    glance_steps: int | None = None,
    diffusion_steps: int = 100,
    prediction: Literal["v", "epsilon", "preconditioned", "velocity"] | None = None,
    normalisation: Literal["minmax", "gaussian"] = "minmax",
    steps: int = 5000,
    batch: int = 256,
    learning_rate: float | None = None,
    robot: str | None = None,
    init: Path | None = None,
    replay: Path | None = None,
    seed: int = 0,
    threads: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    tensorboard: Path | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> int:
    """Train a policy on demonstrations by behaviour cloning, and export it.

    An interrupted training goes on where it was with the same options and --resume.

    Args:
        demonstrations: dataset in the LeRobotDataset v3 layout.
        kind: method: denoising diffusion, score matching, flow matching, streaming, residual codes
            (VQ-BeT), plain regression to compare with, or vla: flow matching on images and
            instructions, which are the tasks of the demonstrations.
        out: checkpoint directory to create.
        network: residual layers over the whole plan, 1-D U-Net, or transformer, which vla is.
        width: units of a layer; channels of the first level of a unet; a transformer takes
            multiples of 32.
        depth: residual blocks, or levels of a unet.
        observation_horizon: observations that the policy sees.
        prediction_horizon: actions in a plan.
        action_horizon: actions of a plan that are carried out before the next.
        context_depth: layers of a vla over images, states and words; depth: over actions.
        glance_steps: steps at the start that train the glance of a vla alone; default: half, or
            none where it goes on from a policy that has one.
        diffusion_steps: noise levels of the kind ddpm.
        prediction: what the network answers: v or epsilon (ddpm), preconditioned or velocity
            (flow, streaming); the first of each is the default.
        normalisation: of states and actions: to [-1, 1], or to mean 0 and deviation 1.
        steps: optimiser steps.
        batch: samples a step.
        learning_rate: at the start; it falls to zero; default: 1e-3, and 3e-4 for a vla that
            goes on from another.
        robot: robot whose joints the data speak of, to run the policy in the ROS graph.
        init: checkpoint to start from (fine-tuning), of the same kind and shape.
        replay: what the vla at --init learnt from, which takes turns with the new demonstrations:
            ten of them are soon learnt by heart, and much else forgotten.
        seed: everything random.
        threads: CPU threads.
        device: where to train; auto takes a GPU if there is one.
        resume: go on with an interrupted training.
        tensorboard: also write curves to this folder (needs the package tensorboard).
        overwrite: replace an existing checkpoint.
        json: also write the result to this file, which must not exist.

    Returns:
        0, or 2 if the exported networks answer differently from the trained ones.

    Raises:
        InputError: data, options and files do not fit together.
    """
    from policies.diffusion.commands import TrainOptions, train_command
    from policies.diffusion.config import NetworkConfig
    from policies.diffusion.trainer import TrainConfig

    _new_file(json)
    if learning_rate is None:
        learning_rate = 3e-4 if kind == "vla" and init else 1e-3
    config = TrainConfig(
        kind=kind,
        name=out.name,
        network=NetworkConfig(type=network, width=width, depth=depth),
        observation_horizon=observation_horizon,
        prediction_horizon=prediction_horizon,
        action_horizon=action_horizon,
        diffusion_steps=diffusion_steps,
        prediction=prediction,
        normalisation=normalisation,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        threads=threads,
        device=device,
    )
    options = TrainOptions(
        robot=robot,
        init=init,
        replay=replay,
        resume=resume,
        tensorboard=tensorboard,
        overwrite=overwrite,
    )
    if kind == "vla":
        from policies.vla import commands as vla

        told = vla.vla_config(config, context_depth, glance_steps)
        return _finish(vla.train_command(demonstrations, out, told, options), json)
    return _finish(train_command(demonstrations, out, config, options), json)


def policy_export(
    policy: Path,
    *,
    out: Path,
    embodiment: str | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> int:
    """Export the weights of a trained policy to ONNX again, and compare the two.

    Args:
        policy: checkpoint directory with model.safetensors.
        out: checkpoint directory to create.
        embodiment: robot that the networks of a vla are exported for; default: as they are.
        overwrite: replace an existing checkpoint.
        json: also write the comparison to this file, which must not exist.

    Returns:
        0, or 2 if the exported networks answer differently from the trained ones.

    Raises:
        InputError: the checkpoint is damaged or has no weights, or ``out`` exists.
    """
    from policies.checkpoint_files import read_config
    from policies.diffusion.commands import export_command
    from policies.vla import commands as vla
    from policies.vla.checkpoint import is_vla

    _new_file(json)
    if is_vla(read_config(policy)[0]):
        exported = vla.export_command(policy, out, embodiment, overwrite=overwrite)
        return _finish(exported, json)
    if embodiment is not None:
        raise InputError(
            f"--embodiment: expected a policy of kind vla, got {policy}, which is for one robot"
        )
    return _finish(export_command(policy, out, overwrite=overwrite), json)


def _new_file(path: Path | None) -> None:
    if path is not None and path.exists():
        raise InputError(f"{path}: expected a new file, but it exists; choose another name")


def _write(content: object, json: Path | None) -> None:
    """Write what a command found, where that is asked for."""
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(jsonlib.dumps(content, indent=1) + "\n", encoding="utf-8")


def _finish(result: dict[str, Any], json: Path | None) -> int:
    """Write the result; exit code by the parity of the export."""
    _write(result, json)
    return 0 if result["parity"]["passed"] else 2
