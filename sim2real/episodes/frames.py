"""Images of an episode: which one belongs to each step, fetched when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.images import Rgb, decode, inspect


@dataclass(frozen=True, kw_only=True)
class CameraFrames:
    """One image for each step of an episode.

    Attributes:
        camera: name of the camera.
        height, width: of each image, pixels.
        index: number of the image of each step, (T,).
        source: gives the JPEG or PNG file of a number.
    """

    camera: str
    height: int
    width: int
    index: NDArray[np.int64]
    source: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.index)

    def file(self, step: int) -> bytes:
        """The image of a step as a JPEG or PNG file of three channels.

        Raises:
            InputError: it cannot be read, or is of another size.
        """
        data = self.source(int(self.index[step]))
        found = inspect(data, self._what(step))
        if (found.height, found.width) != (self.height, self.width):
            raise InputError(
                f"{self._what(step)}: expected {self.width} x {self.height} pixels as before, got "
                f"{found.width} x {found.height}; cut the episode there, or record it again"
            )
        return data

    def rgb(self, step: int) -> Rgb:
        """The image of a step, RGB, (height, width, 3).

        Raises:
            InputError: as :meth:`file`.
        """
        return decode(self.file(step), self._what(step))

    def part(self, start: int, stop: int) -> CameraFrames:
        """Those of the steps ``start`` to ``stop`` (not included)."""
        return replace(self, index=self.index[start:stop])

    def _what(self, step: int) -> str:
        return f"camera {self.camera}, step {step}"
