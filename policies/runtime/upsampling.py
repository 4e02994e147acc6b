"""Commands between actions: a robot that is commanded faster than its policy answers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.errors import InputError
from policies.interface import Float


class Upsampler:
    """Turns each action into ``ratio`` commands.

    ``linear`` goes in equal steps from the last action to the present one and arrives with the
    last command, which suits positions; ``hold`` repeats the action, which suits velocities.
    """

    def __init__(self, ratio: int, mode: Literal["linear", "hold"] = "linear") -> None:
        """Make one.

        Args:
            ratio: commands an action: command rate / policy rate.
            mode: see above.
        """
        if ratio < 1 or mode not in ("linear", "hold"):
            raise InputError(
                f"up-sampling: expected a whole ratio of at least 1 and a mode 'linear' or 'hold', "
                f"got {ratio} and {mode!r}"
            )
        self._ratio = ratio
        self._mode = mode
        self._last: Float | None = None

    def reset(self) -> None:
        """Forget the last action; the next one is commanded at once."""
        self._last = None

    def commands(self, action: Float) -> Float:
        """Commands until the next action, (ratio, ..., A), the last of them ``action`` itself."""
        before = action if self._last is None or self._mode == "hold" else self._last
        share = np.arange(1, self._ratio + 1).reshape(-1, *(1,) * action.ndim) / self._ratio
        self._last = action.copy()
        commands: Float = (1.0 - share) * before + share * action
        return commands
