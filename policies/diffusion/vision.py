"""A small residual network that turns an image into a vector, trained with the policy."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

_WIDTHS = (16, 32, 64)
_GROUPS = 8


class ImageBlock(nn.Module):
    """Two convolutions at half the resolution, and a shortcut.

    Group normalisation, since batch statistics and averaged weights do not go together.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1),
            nn.GroupNorm(_GROUPS, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.GroupNorm(_GROUPS, outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / 2, W / 2)."""
        return torch.nn.functional.silu(self.layers(x) + self.shortcut(x))


class ImageEncoder(nn.Module):
    """Image to features: where each channel is brightest (spatial soft-argmax, Finn et al. 2016).

    Args:
        features: size of the vector.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, _WIDTHS[0], 5, 2, 2), nn.SiLU()]
        for inputs, outputs in zip((_WIDTHS[0], *_WIDTHS[:-1]), _WIDTHS, strict=True):
            layers.append(ImageBlock(inputs, outputs))
        self.layers = nn.Sequential(*layers)
        self.leave = nn.Linear(3 * _WIDTHS[-1], features)

    def forward(self, images: Tensor) -> Tensor:
        """RGB, uint8, (B, To, H, W, 3) to (B, To, features)."""
        horizon, height, width = images.shape[1], images.shape[2], images.shape[3]
        x = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        h = self.layers(x)
        rows, columns = h.shape[2], h.shape[3]
        weight = torch.softmax(h.flatten(2), dim=2)
        # As lists, so that the export holds them as constants.
        y = h.new_tensor([line for line in _grid(rows) for _ in range(columns)])
        z = h.new_tensor(_grid(columns) * rows)
        points = torch.cat([weight @ y, weight @ z, h.flatten(2).mean(dim=2)], dim=1)
        return cast(Tensor, self.leave(points)).reshape(-1, horizon, self.leave.out_features)


def _grid(size: int) -> list[float]:
    return [2.0 * (i + 0.5) / size - 1.0 for i in range(size)]
