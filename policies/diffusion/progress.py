"""State of a training: weights, averages, optimiser, and how it is kept and resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from policies.actor.config import read_json
from policies.errors import InputError

if TYPE_CHECKING:
    from policies.diffusion.trainer import TrainConfig

STATE_FILE, TENSOR_FILE = "state.json", "state.safetensors"
_BETAS = (0.95, 0.999)
_GRADIENT_NORM = 1.0


class Progress:
    """A network on its way.

    Args:
        network: with initial weights, on its device.
        config: of the training; kept beside the state and compared when it is resumed.
        data: hash of the training data.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, data: str) -> None:
        self.network = network
        self.step = 0
        self._what: dict[str, Any] = json.loads(
            json.dumps({"training": asdict(config), "data": data})
        )
        self._decay = config.ema_decay
        self._steps = config.steps
        self._tail = max(config.steps // 10, 1)
        self.averaged: dict[str, Tensor] = {
            key: value.detach().clone() for key, value in network.state_dict().items()
        }
        self._losses: list[float] = []
        self._optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            betas=_BETAS,
            weight_decay=config.weight_decay,
            fused=True,  # one loop over all weights: half of the time of a small network's step
        )
        # Gradients of the head that tells the error must not shorten those of the network.
        self._clipped = [
            parameter
            for name, parameter in network.named_parameters()
            if not name.startswith("head.")
        ]

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """One optimiser step; returns the loss.

        Raises:
            InputError: the loss is not finite.
        """
        value = float(loss.detach())
        if value != value or abs(value) == float("inf"):
            raise InputError(
                f"training: expected a finite loss, got {value} at step {self.step}; reduce "
                "--learning-rate"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._clipped, _GRADIENT_NORM)
        self._optimiser.step()
        self.step += 1
        # Early averages follow quickly, or they would remember the initial weights.
        decay = min(self._decay, self.step / (self.step + 10.0))
        weights = self.network.state_dict()
        torch._foreach_lerp_(
            list(self.averaged.values()), [weights[key] for key in self.averaged], 1.0 - decay
        )
        self._losses = [*self._losses, value][-self._tail :]
        return value

    def recent_loss(self, steps: int) -> float:
        """Mean loss over the last tenth of the steps."""
        recent = self._losses[-max(steps // 10, 1) :]
        return sum(recent) / len(recent) if recent else float("nan")

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`restore` needs, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for i, parameter in enumerate(self.network.parameters()):
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{i}.{key}"] = value
        tensors["losses"] = torch.tensor(self._losses, dtype=torch.float64)
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        new = folder / f"new.{TENSOR_FILE}"
        save_file(tensors, new, metadata={"step": f"{self.step}", "sha256": _sha256(tensors)})
        (folder / STATE_FILE).write_text(json.dumps(self._what, indent=1) + "\n", encoding="utf-8")
        os.replace(new, folder / TENSOR_FILE)

    def restore(self, folder: Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            InputError: there is no such state, it is damaged, or of another training.
        """
        path = folder / TENSOR_FILE
        if not path.is_file() or not (folder / STATE_FILE).is_file():
            raise InputError(
                f"--resume: expected the state of an interrupted training in {folder}, found none; "
                "leave out --resume"
            )
        what = _read_text(folder / STATE_FILE)
        for key, wanted in (("data", self._what["data"]), ("training", self._what["training"])):
            if what.get(key) != wanted:
                differs = _difference(what.get(key), wanted)
                raise InputError(
                    f"--resume: expected the same {key} as in {folder}, got {differs}; give the "
                    "same options and data, or leave out --resume"
                )
        try:
            tensors = _read_tensors(path)
            self._check(tensors)
        except (SafetensorError, ValueError) as error:
            raise InputError(
                f"{path}: expected the state of this training, got a damaged file or another's "
                f"({error}); leave out --resume"
            ) from error
        self.network.load_state_dict({k: tensors[f"network.{k}"] for k in self.averaged})
        self._restore_optimiser(tensors)
        self._losses = tensors["losses"].tolist()
        for key, value in self.averaged.items():
            value.copy_(tensors[f"averaged.{key}"])
        # What does not take part in every step has fewer of its own.
        self.step = int(max(_steps_of(tensors)))

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse names, shapes, types and values that :meth:`save` does not write.

        Raises:
            ValueError: one of them is in it.
        """
        parts = ("network", "averaged")
        like = {f"{part}.{k}": v for part in parts for k, v in self.averaged.items()}
        for i, parameter in enumerate(self.network.parameters()):
            step = f"optimiser.{i}.step"
            if step in tensors:  # it has taken part in a step
                like[step] = torch.zeros(())
                like |= {f"optimiser.{i}.{k}": parameter for k in ("exp_avg", "exp_avg_sq")}
        count = tensors["losses"].numel() if "losses" in tensors else 0
        like["losses"] = torch.zeros(min(count, self._tail), dtype=torch.float64)
        for name in sorted(like.keys() | tensors.keys()):
            got, want = tensors.get(name), like.get(name)
            if got is None or want is None or got.shape != want.shape or got.dtype != want.dtype:
                raise ValueError(f"{name!r} is missing, unknown or of another form")
            if not torch.isfinite(got).all():
                raise ValueError(f"{name!r} is not finite")
        steps = _steps_of(tensors)
        if not steps or min(steps) < 1.0 or max(steps) > self._steps:
            raise ValueError(f"its steps are not within 1 and {self._steps}")

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        parameters = list(self.network.parameters())
        state = {
            i: {key: tensors[f"optimiser.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(parameters))
            if f"optimiser.{i}.step" in tensors
        }
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": state, "param_groups": groups})


def _steps_of(tensors: Mapping[str, Tensor]) -> list[float]:
    """Steps of each parameter that has taken part in any."""
    names = (name for name in tensors if name.startswith("optimiser.") and name.endswith(".step"))
    return [float(tensors[name]) for name in names]


def _read_text(path: Path) -> dict[str, Any]:
    try:
        return read_json(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected what a training is, got a file that cannot be read; leave out "
            "--resume"
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Content of a file; an earlier version stated no hash of it.

    Raises:
        ValueError: it is not what its hash says.
        SafetensorError: it is no safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get("sha256")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if stated is not None and stated != _sha256(tensors):
        raise ValueError("its sha256 is another")
    return tensors


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, types and values."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "others"
    keys = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
    return ", ".join(f"{key} {new.get(key)!r} (was {old.get(key)!r})" for key in keys)
