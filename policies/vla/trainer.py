"""Training: flow matching of action chunks, for one robot or several that share a trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.config import ModelConfig, NetworkConfig, RobotBinding
from policies.diffusion.interface import ChunkSpec
from policies.diffusion.process import make_process
from policies.diffusion.trainer import TrainConfig, model_config, spec_of
from policies.diffusion.training_loop import Log, Loss, rate_share, train_network
from policies.errors import InputError
from policies.interface import Float
from policies.processors import Float32
from policies.vla.config import TrunkConfig, VlaConfig, check_embodiment
from policies.vla.instructions import Encode, Instructions
from policies.vla.network import VlaNetwork
from policies.vla.objectives import Draws, Source, glance_error, plan_error
from policies.vla.windows import AnchoredWindows


@dataclass(frozen=True, kw_only=True)
class VlaTrainConfig(TrainConfig):
    """How a policy is trained, besides :class:`policies.diffusion.trainer.TrainConfig`.

    Width and depth of ``network`` are those of the layers over the actions.

    Attributes:
        context_depth: layers over images, states and words.
        draws: noise levels that each observation is used with in a step; its context, which
            costs most, is computed once for all of them. The first is pure noise, where nothing
            but the context tells what to do.
        glance_steps: steps at the start in which only the glance is trained, by regression of the
            mean plan: words and images find each other there at a fourth of the cost of a whole
            step. None for half of the steps, or for none where training goes on from a policy
            that has the glance of every robot already.
        replay_share: share of the steps that what was learnt before takes, where it is given.
    """

    kind: str = "flow"
    context_depth: int = 2
    draws: int = 2
    glance_steps: int | None = None
    replay_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Initial:
    """A trained policy to go on from.

    Attributes:
        config: of its checkpoint.
        weights: name -> array.
        instructions: that it knows.
    """

    config: VlaConfig
    weights: Mapping[str, Float32]
    instructions: Instructions


@dataclass(frozen=True, kw_only=True)
class TrainedVla:
    """What training leaves.

    Attributes:
        config: all of config.json.
        network: with averaged weights, on the CPU.
        instructions: with their vectors.
        loss: mean over the last tenth of the steps.
    """

    config: VlaConfig
    network: VlaNetwork
    instructions: Instructions
    loss: float


def train_vla(
    demonstrations: Mapping[str, Demonstrations],
    config: VlaTrainConfig,
    *,
    robots: Mapping[str, RobotBinding] | None = None,
    initial: Initial | None = None,
    replay: Mapping[str, Demonstrations] | None = None,
    encoder: Encode | None = None,
    state_dir: Path | None = None,
    resume: bool = False,
    log: Log | None = None,
) -> TrainedVla:
    """Train a policy; the same arguments give the same weights on the same machine.

    Args:
        demonstrations: name of each embodiment -> what it learns from; the task of an episode is
            its instruction. The first one is deployed.
        config: how.
        robots: robot of an embodiment, where it is one.
        initial: policy to start from. Embodiments that it has keep their normalisation and
            weights, and may get other cameras; embodiments that it has not start anew on its trunk.
        replay: name of each embodiment of ``initial`` -> what it learnt from, so that it learns
            the new without forgetting the old.
        encoder: of instructions; None for the installed one.
        state_dir: folder in which training keeps what it needs to be resumed, or None.
        resume: go on from ``state_dir``.
        log: called every 100 steps with the step and named figures.

    Raises:
        InputError: data, settings and the state to resume from do not fit together.
    """
    _check_settings(config)
    replay = replay or {}
    instructions = _instructions([*demonstrations.values(), *replay.values()], initial, encoder)
    sources, models = _sources(demonstrations, config, instructions, robots or {}, initial)
    again, old = _sources(replay, config, instructions, robots or {}, initial)
    _check_replay(old, models, initial)
    described = _described(models, config, instructions, initial)
    specs = {name: model.spec for name, model in described.embodiments.items()}
    network = VlaNetwork(described.trunk, specs, seed=config.seed)
    if initial is None:
        network.set_usual(instructions.rows(list(instructions.known)))
    elif not adopt(network, initial) and config.glance_steps is None:
        config = replace(config, glance_steps=0)
    loss = train_network(
        network,
        config,
        "+".join(source.windows.sha256 for source in (*sources, *again)),
        _loss(network, [sources, again], config, instructions),
        title="vla",
        state_dir=state_dir,
        resume=resume,
        log=log,
    )
    return TrainedVla(config=described, network=network, instructions=instructions, loss=loss)


def _instructions(
    data: Sequence[Demonstrations], initial: Initial | None, encoder: Encode | None
) -> Instructions:
    """Those of the initial policy and those of the demonstrations."""
    texts = [text for one in data for text in one.task]
    if initial is None:
        return Instructions.of(texts, encoder)
    return Instructions(initial.instructions.known, encoder).including(texts)


def _described(
    models: Mapping[str, ModelConfig],
    config: VlaTrainConfig,
    instructions: Instructions,
    initial: Initial | None,
) -> VlaConfig:
    """What config.json will say; the first of the models is deployed."""
    trunk = _trunk(models, config, instructions.size, initial)
    shape = NetworkConfig(type="transformer", width=trunk.width, depth=trunk.depth)
    new = {name: replace(model, network=shape) for name, model in models.items()}
    described = VlaConfig(
        name=config.name,
        deployed=next(iter(models)),
        trunk=trunk,
        embodiments={**(initial.config.embodiments if initial else {}), **new},
        instructions=tuple(instructions.known),
    )
    for name, model in described.embodiments.items():
        check_embodiment(name, model, trunk, "training")
    return described


def _check_settings(config: VlaTrainConfig) -> None:
    if config.draws < 1 or config.context_depth < 1:
        raise InputError(
            "training: expected at least one draw and one layer over the context, got "
            f"{config.draws} and {config.context_depth}"
        )
    if config.glance_steps is not None and not 0 <= config.glance_steps < config.steps:
        raise InputError(
            f"--glance-steps: expected fewer than the {config.steps} steps of the training, got "
            f"{config.glance_steps}"
        )
    if not 0.0 < config.replay_share < 1.0:
        raise InputError(
            f"training: expected a share of replay within (0, 1), got {config.replay_share}"
        )


def _check_replay(
    old: Mapping[str, ModelConfig], new: Mapping[str, ModelConfig], initial: Initial | None
) -> None:
    """What was learnt before is of an embodiment of the initial policy, with the same cameras."""
    for name, model in old.items():
        known = new.get(name) or (initial.config.embodiments.get(name) if initial else None)
        if known is None:
            raise InputError(
                f"--replay: expected demonstrations of an embodiment that the initial policy has, "
                f"got {name!r}; give the ones that it learnt from"
            )
        if model.spec.cameras != known.spec.cameras:
            raise InputError(
                f"--replay: expected the cameras {[c.name for c in known.spec.cameras]} of the "
                f"embodiment {name!r}, got {[c.name for c in model.spec.cameras]}; with other "
                "cameras there is nothing to replay: leave it out"
            )


def _sources(
    demonstrations: Mapping[str, Demonstrations],
    config: VlaTrainConfig,
    instructions: Instructions,
    robots: Mapping[str, RobotBinding],
    initial: Initial | None,
) -> tuple[list[Source], dict[str, ModelConfig]]:
    order = list(instructions.known)
    sources, models = [], {}
    for name, data in demonstrations.items():
        before = initial.config.embodiments.get(name) if initial else None
        if before is not None:
            _check_same(name, before.spec, spec_of(data, config))
        windows = AnchoredWindows(
            data,
            observation_horizon=config.observation_horizon,
            prediction_horizon=config.prediction_horizon,
            normalisation=config.normalisation,
            normalisers=(before.state, before.action) if before else None,
        )
        said = np.repeat([order.index(text) for text in data.task], [len(x) for x in data.state])
        sources.append(Source(name=name, windows=windows, said=said))
        models[name] = model_config(spec_of(data, config), windows, config, robots.get(name))
    return sources, models


def _check_same(name: str, before: ChunkSpec, now: ChunkSpec) -> None:
    """A known embodiment may get other cameras; nothing else of it may change."""
    kept = ("state_names", "action_names", "observation_horizon", "prediction_horizon", "rate_hz")
    for key in kept:
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            raise InputError(
                f"training: expected {key} {old} of the embodiment {name!r}, as the initial policy "
                f"has it, got {new}; give the demonstrations another --embodiment"
            )


def _trunk(
    models: Mapping[str, ModelConfig],
    config: VlaTrainConfig,
    text_size: int,
    initial: Initial | None,
) -> TrunkConfig:
    """The trunk of the initial policy with the cameras that are new, or a fresh one."""
    if initial:
        before = initial.config.trunk
        cameras = [*before.cameras, *_cameras(models)]
        return replace(before, cameras=tuple(dict.fromkeys(cameras)))
    return TrunkConfig(
        width=config.network.width,
        context_depth=config.context_depth,
        depth=config.network.depth,
        text_size=text_size,
        cameras=tuple(dict.fromkeys(_cameras(models))),
        history=config.observation_horizon,
    )


def _cameras(models: Mapping[str, ModelConfig]) -> list[str]:
    return [camera.name for model in models.values() for camera in model.spec.cameras]


def adopt(network: VlaNetwork, initial: Initial) -> bool:
    """Take over the weights of a trained policy; a camera that is new begins as their mean.

    Args:
        network: with initial weights; what the policy has not keeps them.
        initial: the policy.

    Returns:
        True if a glance begins anew: that of a new embodiment, or of one with other cameras.

    Raises:
        InputError: its weights are not those that its config.json describes.
    """
    weights = {name: torch.from_numpy(value) for name, value in initial.weights.items()}
    fresh = len(network.config.cameras) - len(weights["camera"])
    new_rows = weights["camera"].mean(dim=0, keepdim=True).expand(fresh, -1)
    weights["camera"] = torch.cat([weights["camera"], new_rows])
    # The glance joins the cameras of an embodiment: with others it begins anew.
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    reshaped = {
        name
        for name, value in weights.items()
        if ".glance." in name and name in shapes and shapes[name] != value.shape
    }
    try:
        missing, unknown = network.load_state_dict(
            {name: value for name, value in weights.items() if name not in reshaped}, strict=False
        )
    except RuntimeError as error:
        raise InputError(
            f"initial policy {initial.config.name!r}: expected the weights that its config.json "
            "describes, got others; copy the checkpoint again"
        ) from error
    added = tuple(
        f"embodiments.{name}." for name in network.specs if name not in initial.config.embodiments
    )
    if unknown or any(not name.startswith(added) for name in set(missing) - reshaped):
        raise InputError(
            f"initial policy {initial.config.name!r}: expected weights for all of its network, got "
            "too few or too many; copy the checkpoint again"
        )
    return bool(reshaped or added)


def _shares(groups: Sequence[Sequence[Source]], replay_share: float) -> Float:
    """How often each of the new sources and of those of the replay has its turn."""
    shares = []
    for group, whole in zip(groups, (1.0 - replay_share, replay_share), strict=True):
        frames = sum(len(source.windows) for source in group)
        shares += [whole * len(source.windows) / frames for source in group]
    return np.array(shares) / sum(shares)


def _loss(
    network: VlaNetwork,
    groups: Sequence[Sequence[Source]],
    config: VlaTrainConfig,
    instructions: Instructions,
) -> Loss:
    """What is minimised: first the error of the glance alone, then that of plans.

    Args:
        network: that answers.
        groups: what is new, and what is replayed.
        config: how.
        instructions: all that are told.
    """
    flow = make_process(
        "flow",
        diffusion_steps=config.diffusion_steps,
        prediction=config.prediction,
        prediction_horizon=config.prediction_horizon,
        action_horizon=config.action_horizon,
    )
    process = Draws(process=flow, draws=config.draws)
    table = instructions.rows(list(instructions.known))
    sources, shares = [*groups[0], *groups[1]], _shares(groups, config.replay_share)
    glance = config.steps // 2 if config.glance_steps is None else config.glance_steps

    def error(step: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        source = sources[int(rng.choice(len(sources), p=shares))]
        if step < glance:
            value = glance_error(network, source, table, config.batch, config.draws, rng)
            return value, rate_share(step, glance)
        value = plan_error(network, source, table, process, config.batch, config.draws, rng)
        return value, rate_share(step - glance, config.steps - glance)

    return error
