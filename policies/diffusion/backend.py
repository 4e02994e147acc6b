"""What evaluates the networks of a deployed model: ONNX Runtime, or torch to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.actor.onnx_model import open_session, parse_onnx
from policies.checkpoint_files import WEIGHTS_FILE
from policies.diffusion.config import ModelConfig
from policies.errors import InputError
from policies.processors import Float32

if TYPE_CHECKING:
    from torch import nn

ENCODER_FILE, DENOISER_FILE, CODES_FILE = "encoder.onnx", "denoiser.onnx", "codes.safetensors"


def chunk_files(kind: str) -> tuple[str, ...]:
    """Files that a generative model of this kind cannot do without."""
    return (ENCODER_FILE, DENOISER_FILE, *((CODES_FILE,) if kind == "vqbet" else ()))


class Backend(Protocol):
    """The two networks of a model."""

    def encode(self, state: Float32, images: list[NDArray[np.uint8]]) -> Float32:
        """Condition of the denoiser, (B, C), from normalised states (B, To, D) and images."""

    def denoise(self, noisy: Float32, time: Float32, condition: Float32) -> tuple[Float32, Float32]:
        """Output (B, Tp, A) and what the head answers, (B,) or (B, logits)."""


class OnnxBackend:
    """ONNX Runtime on one thread.

    Args:
        config: of the model.
        encoder, denoiser: content of the files.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: a network cannot be parsed or run, is not finite, or does not fit ``config``.
    """

    def __init__(self, config: ModelConfig, encoder: bytes, denoiser: bytes, what: str) -> None:
        parse_onnx(encoder, f"{what}, {ENCODER_FILE}")
        parse_onnx(denoiser, f"{what}, {DENOISER_FILE}")
        self._encoder = open_session(encoder, f"{what}, {ENCODER_FILE}")
        self._denoiser = open_session(denoiser, f"{what}, {DENOISER_FILE}")
        self._seen = [value.name for value in self._encoder.get_inputs()]
        self._asked = [value.name for value in self._denoiser.get_inputs()]
        self._check(config, what)

    def _check(self, config: ModelConfig, what: str) -> None:
        """Run both on zeros: sizes and finiteness."""
        spec = config.spec
        horizon, actions = spec.prediction_horizon, len(spec.action_names)
        state = np.zeros((1, spec.observation_horizon, len(spec.state_names)), np.float32)
        images = [
            np.zeros((1, spec.observation_horizon, c.height, c.width, 3), np.uint8)
            for c in spec.cameras
        ]
        noisy = np.zeros((1, horizon, actions), np.float32)
        time = np.zeros((1, horizon) if config.kind == "streaming" else 1, np.float32)
        try:
            output, _ = self.denoise(noisy, time, self.encode(state, images))
        except Exception as reason:  # ONNX Runtime's exceptions share no public base class
            raise InputError(
                f"{what}: expected networks for {state.shape[2]} states, {len(images)} cameras and "
                f"plans of {horizon} x {actions}, but ONNX Runtime stops with: "
                f"{str(reason).splitlines()[0]}"
            ) from reason
        if output.shape != noisy.shape or not np.isfinite(output).all():
            raise InputError(
                f"{what}, {DENOISER_FILE}: expected finite output of shape {noisy.shape}, got "
                f"shape {output.shape} or NaN; network and config.json do not belong together"
            )

    def encode(self, state: Float32, images: list[NDArray[np.uint8]]) -> Float32:
        """See :class:`Backend`."""
        feed = dict(zip(self._seen, [state, *images], strict=True))
        out: Float32 = self._encoder.run(None, feed)[0]
        return out

    def denoise(self, noisy: Float32, time: Float32, condition: Float32) -> tuple[Float32, Float32]:
        """See :class:`Backend`."""
        feed = dict(zip(self._asked, (noisy, time, condition), strict=True))
        output, error = self._denoiser.run(None, feed)
        return output, error


class TorchNetwork:
    """Part of a torch backend that is the same for all networks: weights, and the denoiser.

    Args:
        network: with initial weights.
        weights: name -> array, as in ``model.safetensors``.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: the weights are not those of the network.
    """

    def __init__(self, network: nn.Module, weights: Mapping[str, Float32], what: str) -> None:
        import torch

        self._torch = torch
        try:
            network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        except RuntimeError as error:
            raise InputError(
                f"{what}, {WEIGHTS_FILE}: expected the weights of the network that config.json "
                "describes, got others; copy the checkpoint again"
            ) from error
        self.network: Any = network.eval()

    def denoise(self, noisy: Float32, time: Float32, condition: Float32) -> tuple[Float32, Float32]:
        """See :class:`Backend`."""
        with self._torch.inference_mode():
            output, error = self.network.denoise(
                *(self._torch.from_numpy(x) for x in (noisy, time, condition))
            )
        return output.numpy(), error.numpy()


class TorchBackend(TorchNetwork):
    """torch, eager: what the export is compared with.

    Args:
        config: of the model.
        weights: name -> array, as in ``model.safetensors``.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: the weights are not those of the network that ``config`` describes.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, Float32], what: str) -> None:
        from policies.diffusion.networks import make_network

        network = make_network(config.spec, config.network, kind=config.kind)
        super().__init__(network, weights, what)

    def encode(self, state: Float32, images: list[NDArray[np.uint8]]) -> Float32:
        """See :class:`Backend`."""
        torch = self._torch
        with torch.inference_mode():
            seen = [torch.from_numpy(image) for image in images]
            out: Float32 = self.network.encode(torch.from_numpy(state), seen).numpy()
        return out
