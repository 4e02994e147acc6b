"""Networks of one embodiment to ONNX, and how far the export is from the original."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from policies.checkpoint_files import WEIGHTS_FILE
from policies.diffusion.backend import DENOISER_FILE, ENCODER_FILE
from policies.diffusion.export import Parity, median_s, to_onnx
from policies.processors import Float32
from policies.vla.backend import VlaOnnxBackend, VlaTorchBackend
from policies.vla.config import VlaConfig
from policies.vla.instructions import INSTRUCTIONS_FILE, Instructions
from policies.vla.network import BoundNetwork, VlaNetwork
from policies.vla.text import TEXT_ROWS


class _Encoder(nn.Module):
    def __init__(self, network: BoundNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: Tensor, text: Tensor, *images: Tensor) -> Tensor:
        return self.network.encode(state, list(images), text)


class _Denoiser(nn.Module):
    def __init__(self, network: BoundNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.denoise(noisy, time, condition)


def _inputs(config: VlaConfig, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Random inputs of encoder (state, text, images) and denoiser (without the condition)."""
    spec, rng = config.model.spec, np.random.default_rng(batch)
    steps = spec.observation_horizon
    shapes = [(batch, steps, len(spec.state_names)), (batch, TEXT_ROWS, config.trunk.text_size)]
    seen = [torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    for camera in spec.cameras:
        size = (batch, steps, camera.height, camera.width, 3)
        seen.append(torch.from_numpy(rng.integers(256, size=size, dtype=np.uint8)))
    plan = (batch, spec.prediction_horizon, len(spec.action_names))
    noisy = rng.standard_normal(plan, dtype=np.float32)
    return seen, [torch.from_numpy(noisy), torch.from_numpy(rng.random(batch, dtype=np.float32))]


def export_onnx(
    config: VlaConfig, network: VlaNetwork, instructions: Instructions
) -> dict[str, bytes]:
    """File name -> content: two graphs of the deployed embodiment, all weights, instructions.

    Args:
        config: of the policy.
        network: on the CPU, in evaluation mode.
        instructions: that it knows.
    """
    bound = BoundNetwork(network, config.deployed)
    seen, asked = _inputs(config, 2)
    with torch.no_grad():
        condition = bound.encode(seen[0], seen[2:], seen[1])
    names = ["state", "text", *(f"image_{camera.name}" for camera in config.model.spec.cameras)]
    weights = {k: np.ascontiguousarray(v.numpy()) for k, v in network.state_dict().items()}
    return {
        ENCODER_FILE: to_onnx(_Encoder(bound).eval(), seen, names, ["condition"]),
        DENOISER_FILE: to_onnx(
            _Denoiser(bound).eval(),
            [*asked, condition],
            ["noisy", "time", "condition"],
            ["output", "head"],
        ),
        WEIGHTS_FILE: save(weights),
        INSTRUCTIONS_FILE: instructions.dump(),
    }


def compare(config: VlaConfig, files: dict[str, bytes], weights: dict[str, Float32]) -> Parity:
    """Run an export beside torch on random inputs.

    Args:
        config: of the policy.
        files: file name -> content.
        weights: name -> array.
    """
    original = VlaTorchBackend(config, weights, config.name)
    exported = VlaOnnxBackend(config, files[ENCODER_FILE], files[DENOISER_FILE], config.name)
    worst, times = 0.0, [0.0, 0.0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch in (3, 1):
            seen, (noisy, level) = ([x.numpy() for x in part] for part in _inputs(config, batch))
            wanted, got = (x.encode(seen[0], seen[2:], seen[1]) for x in (original, exported))
            worst = max(worst, float(np.abs(wanted - got).max()))
            answers = [x.denoise(noisy, level, wanted) for x in (original, exported)]
            for a, b in zip(*answers, strict=True):
                worst = max(worst, float(np.abs(a - b).max()))
            times = [median_s(x, [noisy, level, wanted]) for x in (original, exported)]
    finally:
        torch.set_num_threads(threads)
    return Parity(max_difference=worst, torch_s=times[0], onnx_s=times[1])
