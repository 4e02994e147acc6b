"""Training of generative policies, of every kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.codes import ResidualCodes, fit_codes
from policies.diffusion.config import ModelConfig, NetworkConfig, RobotBinding, make_sampler
from policies.diffusion.interface import CameraSpec, ChunkSpec
from policies.diffusion.networks import ChunkNetwork, make_network
from policies.diffusion.normaliser import Normalisation
from policies.diffusion.objectives import code_objective, objective
from policies.diffusion.process import PREDICTIONS, Prediction, make_process
from policies.diffusion.training_loop import Log, rate_share, train_network
from policies.diffusion.windows import Windows
from policies.errors import InputError
from policies.processors import Float32


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        kind: a key of :data:`policies.diffusion.config.SAMPLERS`.
        name: name of the checkpoint.
        network: shape of the network.
        observation_horizon, prediction_horizon, action_horizon: To, Tp, Ta.
        diffusion_steps: noise levels of a ``ddpm`` model.
        prediction: what the network answers; None for the first of the kind's
            :data:`policies.diffusion.process.PREDICTIONS`.
        normalisation: ``minmax`` or ``gaussian``.
        steps: optimiser steps.
        batch: samples a step.
        learning_rate: of AdamW after a short warm-up; it falls to zero along a cosine.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights, which are what is deployed.
        seed: initial weights, order of samples, noise.
        threads: CPU threads.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        save_every: steps between states that training can be resumed from.
    """

    kind: str
    name: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    observation_horizon: int = 2
    prediction_horizon: int = 16
    action_horizon: int = 8
    diffusion_steps: int = 100
    prediction: Prediction | None = None
    normalisation: Normalisation = "minmax"
    steps: int = 5000
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    ema_decay: float = 0.995
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    save_every: int = 1000


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    Attributes:
        config: all of config.json.
        network: with averaged weights, on the CPU.
        loss: mean over the last tenth of the steps.
        codes: codebooks of a ``vqbet`` model.
    """

    config: ModelConfig
    network: ChunkNetwork
    loss: float
    codes: ResidualCodes | None = None


def train_model(
    demonstrations: Demonstrations,
    config: TrainConfig,
    *,
    robot: RobotBinding | None = None,
    initial: tuple[ModelConfig, dict[str, Float32]] | None = None,
    state_dir: Path | None = None,
    resume: bool = False,
    log: Log | None = None,
) -> Trained:
    """Train a model; the same arguments give the same weights on the same machine.

    Args:
        demonstrations: what to learn from.
        config: how.
        robot: robot that the names of states and actions speak of, or None.
        initial: model and weights to start from (fine-tuning); its normalisation is kept.
        state_dir: folder in which training keeps what it needs to be resumed, or None.
        resume: go on from ``state_dir``.
        log: called every 100 steps with the step and named figures.

    Raises:
        InputError: data, settings and the state to resume from do not fit together.
    """
    windows = Windows(
        demonstrations,
        observation_horizon=config.observation_horizon,
        prediction_horizon=config.prediction_horizon,
        normalisation=config.normalisation,
        normalisers=(initial[0].state, initial[0].action) if initial else None,
    )
    return train_windows(
        windows,
        spec_of(demonstrations, config),
        config,
        robot=robot,
        initial=initial,
        state_dir=state_dir,
        resume=resume,
        log=log,
    )


def train_windows(
    windows: Windows,
    spec: ChunkSpec,
    config: TrainConfig,
    *,
    robot: RobotBinding | None = None,
    initial: tuple[ModelConfig, dict[str, Float32]] | None = None,
    state_dir: Path | None = None,
    resume: bool = False,
    log: Log | None = None,
) -> Trained:
    """Train a model on samples; see :func:`train_model`.

    Args:
        windows: the samples.
        spec: sizes, names and rates of the model; they are those of the samples.
        config: how.
        robot: robot that the names of states and actions speak of, or None.
        initial: model and weights to start from.
        state_dir: folder in which training keeps what it needs to be resumed, or None.
        resume: go on from ``state_dir``.
        log: called every 100 steps with the step and named figures.

    Raises:
        InputError: samples, settings and the state to resume from do not fit together.
    """
    model = model_config(spec, windows, config, robot)
    network = make_network(model.spec, config.network, kind=config.kind, seed=config.seed)
    if initial:
        if (initial[0].spec, initial[0].network) != (model.spec, model.network):
            raise InputError(
                "training: expected an initial model with the same names, horizons and network, "
                f"got {initial[0].spec.name!r} with others; give the same options as for it"
            )
        network.load_state_dict({key: torch.from_numpy(v) for key, v in initial[1].items()})
    codes = None
    if config.kind == "vqbet":
        codes = fit_codes(windows.plans(), np.random.default_rng([config.seed, 1, 0]))
    process = make_process(
        config.kind,
        diffusion_steps=config.diffusion_steps,
        prediction=_prediction(config),
        prediction_horizon=config.prediction_horizon,
        action_horizon=config.action_horizon,
    )

    def error(step: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        batch = windows.batch(rng.integers(len(windows), size=config.batch))
        share = rate_share(step, config.steps)
        if codes is not None:
            return code_objective(network, codes, batch, rng), share
        return objective(network, process, batch, rng), share

    loss = train_network(
        network,
        config,
        windows.sha256,
        error,
        title=config.kind,
        state_dir=state_dir,
        resume=resume,
        log=log,
    )
    return Trained(config=model, network=network, loss=loss, codes=codes)


def _prediction(config: TrainConfig) -> Prediction | None:
    known = PREDICTIONS.get(config.kind, ())
    if config.prediction is None:
        return known[0] if known else None
    if config.prediction not in known:
        raise InputError(
            f"--prediction: expected one out of {list(known)} for a model of kind "
            f"{config.kind!r}, got {config.prediction!r}"
        )
    return config.prediction


def spec_of(demonstrations: Demonstrations, config: TrainConfig) -> ChunkSpec:
    """Sizes, names and rates of a model for these demonstrations."""
    return ChunkSpec(
        name=config.name,
        state_names=tuple(demonstrations.state_names),
        action_names=tuple(demonstrations.action_names),
        cameras=tuple(
            CameraSpec(name=name, height=rows[0].shape[1], width=rows[0].shape[2])
            for name, rows in demonstrations.images.items()
        ),
        observation_horizon=config.observation_horizon,
        prediction_horizon=config.prediction_horizon,
        action_horizon=config.action_horizon,
        rate_hz=demonstrations.rate_hz,
    )


def model_config(
    spec: ChunkSpec, windows: Windows, config: TrainConfig, robot: RobotBinding | None
) -> ModelConfig:
    """What a checkpoint will say of a model.

    Args:
        spec: sizes, names and rates.
        windows: the samples, which tell the normalisation.
        config: how it is trained.
        robot: robot that the names speak of, or None.

    Raises:
        InputError: the horizons do not go together.
    """
    if not spec.action_horizon <= spec.prediction_horizon:
        raise InputError(
            f"training: expected an action horizon of at most the prediction horizon, got "
            f"{spec.action_horizon} and {spec.prediction_horizon}"
        )
    if config.kind == "streaming" and spec.prediction_horizon % spec.action_horizon:
        raise InputError(
            "training: expected a prediction horizon that is a multiple of the action horizon for "
            f"a streaming model, got {spec.prediction_horizon} and {spec.action_horizon}"
        )
    return ModelConfig(
        spec=spec,
        kind=config.kind,
        network=config.network,
        sampler=make_sampler(config.kind),
        diffusion_steps=config.diffusion_steps,
        prediction=_prediction(config),
        state=windows.state_normaliser,
        action=windows.action_normaliser,
        first_action=tuple(windows.first_action.tolist()),
        robot=robot,
        provenance={
            "dataset_sha256": windows.sha256,
            "samples": f"{len(windows)}",
            "steps": f"{config.steps}",
            "batch": f"{config.batch}",
            "learning_rate": f"{config.learning_rate:g}",
            "seed": f"{config.seed}",
            "torch": torch.__version__,
        },
    )
