"""Raw units to the range that networks like, and back; stored in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from policies.interface import Float

Normalisation = Literal["minmax", "gaussian"]
_CONSTANT = 1e-6
_FAR = 5.0


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """``(raw - centre) / scale``, one entry for each name.

    Attributes:
        centre, scale: raw units; a column that did not vary keeps the scale 1.
        lower, upper: range that was seen, raw units.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def normalise(self, raw: Float) -> Float:
        """Normalised values, (..., size), at most 5 scales from the centre.

        The bound keeps an input that hardly varied in training from taking over when it does.
        """
        scaled = (raw - self._arrays[0]) / self._arrays[1]
        out: Float = np.minimum(np.maximum(scaled, -_FAR), _FAR)
        return out

    def restore(self, normalised: Float) -> Float:
        """Raw values, (..., size), within the range that was seen."""
        centre, scale, lower, upper = self._arrays
        out: Float = np.minimum(np.maximum(normalised * scale + centre, lower), upper)
        return out

    @property
    def bounds(self) -> tuple[Float, Float]:
        """Range that was seen, normalised, (size,) each."""
        centre, scale, lower, upper = self._arrays
        return (lower - centre) / scale, (upper - centre) / scale

    @cached_property
    def _arrays(self) -> tuple[Float, Float, Float, Float]:
        return (
            np.array(self.centre),
            np.array(self.scale),
            np.array(self.lower),
            np.array(self.upper),
        )


def fit_normaliser(values: Float, how: Normalisation) -> Normaliser:
    """Normaliser of the columns of ``values``.

    Args:
        values: raw units, (samples, size).
        how: ``minmax`` to [-1, 1], or ``gaussian`` to mean 0 and standard deviation 1.
    """
    lower, upper = values.min(axis=0), values.max(axis=0)
    if how == "minmax":
        centre, scale = (lower + upper) / 2, (upper - lower) / 2
    else:
        centre, scale = values.mean(axis=0), values.std(axis=0)
    # A column that is constant but for rounding must not be blown up to full range.
    size = np.maximum(np.abs(values).max(axis=0), 1.0)
    scale = np.where(scale > _CONSTANT * size, scale, 1.0)
    return Normaliser(
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
    )
