"""State of a training: weights, averages, optimiser, and how it is kept and resumed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
        self._losses = [*self._losses[-self._tail + 1 :], value]
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
        new = folder / f"new.{TENSOR_FILE}"
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            new,
            metadata={"step": f"{self.step}"},
        )
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
        what = read_json((folder / STATE_FILE).read_text("utf-8"), str(folder / STATE_FILE))
        for key, wanted in (("data", self._what["data"]), ("training", self._what["training"])):
            if what.get(key) != wanted:
                differs = _difference(what.get(key), wanted)
                raise InputError(
                    f"--resume: expected the same {key} as in {folder}, got {differs}; give the "
                    "same options and data, or leave out --resume"
                )
        try:
            tensors = load_file(path)
            network = {k: tensors[f"network.{k}"] for k in self.averaged}
            averaged = {k: tensors[f"averaged.{k}"] for k in self.averaged}
            self.network.load_state_dict(network)
            self._restore_optimiser(tensors)
            self._losses = tensors["losses"].tolist()
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{path}: expected the state of this training, got a damaged file or another's; "
                "leave out --resume"
            ) from error
        for key, value in averaged.items():
            self.averaged[key].copy_(value)
        # What does not take part in every step has fewer of its own.
        self.step = max(int(value) for key, value in tensors.items() if key.endswith(".step"))

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        parameters = list(self.network.parameters())
        state = {
            i: {key: tensors[f"optimiser.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(parameters))
            if f"optimiser.{i}.step" in tensors
        }
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": state, "param_groups": groups})


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "others"
    keys = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
    return ", ".join(f"{key} {new.get(key)!r} (was {old.get(key)!r})" for key in keys)
