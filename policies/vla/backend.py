"""What evaluates the networks: as :mod:`policies.diffusion.backend`, with words besides images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.backend import OnnxBackend, TorchNetwork
from policies.processors import Float32
from policies.vla.config import VlaConfig
from policies.vla.text import TEXT_ROWS


class VlaBackend(Protocol):
    """The two networks of a policy that reads instructions."""

    def encode(
        self, state: Float32, images: list[NDArray[np.uint8]], text: Float32 | None = None
    ) -> Float32:
        """Condition of the denoiser, (B, C).

        Args:
            state: normalised, (B, To, D).
            images: for each camera in order, RGB, uint8, (B, To, H, W, 3).
            text: rows of the instructions, (B, TEXT_ROWS, text_size); None for no words.
        """

    def denoise(self, noisy: Float32, time: Float32, condition: Float32) -> tuple[Float32, Float32]:
        """Output (B, Tp, A) and the logarithm of the variance of its error (B,)."""


class VlaOnnxBackend(OnnxBackend):
    """ONNX Runtime on one thread.

    Args:
        config: of the policy.
        encoder: content of the encoder's file.
        denoiser: content of the denoiser's file.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: as :class:`policies.diffusion.backend.OnnxBackend`.
    """

    def __init__(self, config: VlaConfig, encoder: bytes, denoiser: bytes, what: str) -> None:
        self._text_size = config.trunk.text_size
        super().__init__(config.model, encoder, denoiser, what)

    def encode(
        self, state: Float32, images: list[NDArray[np.uint8]], text: Float32 | None = None
    ) -> Float32:
        """See :class:`VlaBackend`."""
        text = _no_words(len(state), self._text_size) if text is None else text
        feed = dict(zip(self._seen, [state, text, *images], strict=True))
        out: Float32 = self._encoder.run(None, feed)[0]
        return out


class VlaTorchBackend(TorchNetwork):
    """torch, eager: what the export is compared with.

    Args:
        config: of the policy.
        weights: name -> array, as in ``model.safetensors``.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: the weights are not those of the network that ``config`` describes.
    """

    def __init__(self, config: VlaConfig, weights: Mapping[str, Float32], what: str) -> None:
        from policies.vla.network import BoundNetwork, VlaNetwork

        specs = {name: model.spec for name, model in config.embodiments.items()}
        network = VlaNetwork(config.trunk, specs)
        super().__init__(network, weights, what)
        self.network = BoundNetwork(network, config.deployed).eval()
        self._text_size = config.trunk.text_size

    def encode(
        self, state: Float32, images: list[NDArray[np.uint8]], text: Float32 | None = None
    ) -> Float32:
        """See :class:`VlaBackend`."""
        torch = self._torch
        text = _no_words(len(state), self._text_size) if text is None else text
        with torch.inference_mode():
            seen = [torch.from_numpy(image) for image in images]
            out: Float32 = self.network.encode(
                torch.from_numpy(state), seen, torch.from_numpy(text)
            ).numpy()
        return out


def _no_words(batch: int, size: int) -> Float32:
    return np.zeros((batch, TEXT_ROWS, size), dtype=np.float32)
