"""Networks to ONNX, and how far the export is from the original."""

from __future__ import annotations

import io
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from policies.checkpoint_files import WEIGHTS_FILE
from policies.diffusion.backend import (
    CODES_FILE,
    DENOISER_FILE,
    ENCODER_FILE,
    Backend,
    OnnxBackend,
    TorchBackend,
)
from policies.diffusion.codes import ResidualCodes
from policies.diffusion.config import ModelConfig
from policies.diffusion.networks import ChunkNetwork
from policies.processors import Float32

TOLERANCE = 1e-4
_OPSET = 17
_TIMED = 50


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Comparison of an export with torch.

    Attributes:
        max_difference: largest difference of a network's output.
        torch_s, onnx_s: median time of one evaluation of the denoiser for one plan, one thread, s.
    """

    max_difference: float
    torch_s: float
    onnx_s: float

    @property
    def speed_ratio(self) -> float:
        """How many times faster ONNX Runtime is."""
        return self.torch_s / self.onnx_s


class _Encoder(nn.Module):
    def __init__(self, network: ChunkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: Tensor, *images: Tensor) -> Tensor:
        return self.network.encode(state, list(images))


class _Denoiser(nn.Module):
    def __init__(self, network: ChunkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.denoise(noisy, time, condition)


def _inputs(config: ModelConfig, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Random inputs of encoder and denoiser (without the condition)."""
    spec, rng = config.spec, np.random.default_rng(batch)
    steps, horizon = spec.observation_horizon, spec.prediction_horizon
    state = rng.standard_normal((batch, steps, len(spec.state_names)), dtype=np.float32)
    seen = [torch.from_numpy(state)]
    for camera in spec.cameras:
        shape = (batch, steps, camera.height, camera.width, 3)
        seen.append(torch.from_numpy(rng.integers(256, size=shape, dtype=np.uint8)))
    noisy = rng.standard_normal((batch, horizon, len(spec.action_names)), dtype=np.float32)
    level = rng.random((batch, horizon) if config.kind == "streaming" else batch, dtype=np.float32)
    return seen, [torch.from_numpy(noisy), torch.from_numpy(level)]


def to_onnx(module: nn.Module, inputs: list[Tensor], names: list[str], outputs: list[str]) -> bytes:
    """A network as ONNX; the first axis of every input and output is free.

    Args:
        module: the network, on the CPU.
        inputs: example inputs, batch of 2.
        names: of the inputs.
        outputs: names of the outputs.
    """
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs a package more and writes the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs),
            buffer,
            dynamo=False,
            opset_version=_OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)},
        )
    return buffer.getvalue()


def export_onnx(
    config: ModelConfig, network: ChunkNetwork, codes: ResidualCodes | None = None
) -> dict[str, bytes]:
    """File name -> content of the two graphs, of the weights, and of the codebooks if any.

    Args:
        config: of the model.
        network: on the CPU, in evaluation mode.
        codes: codebooks of a ``vqbet`` model.
    """
    seen, asked = _inputs(config, 2)
    with torch.no_grad():
        condition = network.encode(seen[0], seen[1:])
    names = ["state", *(f"image_{camera.name}" for camera in config.spec.cameras)]
    weights = {k: np.ascontiguousarray(v.numpy()) for k, v in network.state_dict().items()}
    return {
        ENCODER_FILE: to_onnx(_Encoder(network).eval(), seen, names, ["condition"]),
        DENOISER_FILE: to_onnx(
            _Denoiser(network).eval(),
            [*asked, condition],
            ["noisy", "time", "condition"],
            ["output", "head"],
        ),
        WEIGHTS_FILE: save(weights),
        **({CODES_FILE: codes.dump()} if codes is not None else {}),
    }


def compare(config: ModelConfig, files: dict[str, bytes], weights: dict[str, Float32]) -> Parity:
    """Run an export beside torch on random inputs.

    Args:
        config: of the model.
        files: file name -> content.
        weights: name -> array.
    """
    original = TorchBackend(config, weights, config.spec.name)
    exported = OnnxBackend(config, files[ENCODER_FILE], files[DENOISER_FILE], config.spec.name)
    worst = 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch in (1, 3):
            seen, asked = ([x.numpy() for x in part] for part in _inputs(config, batch))
            wanted = original.encode(seen[0], seen[1:])
            got = exported.encode(seen[0], seen[1:])
            worst = max(worst, float(np.abs(wanted - got).max()))
            noisy, level = asked
            pair = (
                original.denoise(noisy, level, wanted),
                exported.denoise(noisy, level, wanted),
            )
            for a, b in zip(*pair, strict=True):
                worst = max(worst, float(np.abs(a - b).max()))
            if batch == 1:
                times = [median_s(x, [*asked, wanted]) for x in (original, exported)]
    finally:
        torch.set_num_threads(threads)
    return Parity(max_difference=worst, torch_s=times[0], onnx_s=times[1])


def median_s(backend: Backend, inputs: list[Float32]) -> float:
    """Median time of one evaluation of the denoiser, s.

    Args:
        backend: the networks.
        inputs: noisy actions, level, condition.
    """
    spent = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        backend.denoise(inputs[0], inputs[1], inputs[2])
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))
