"""How steep the derivatives of replayed windows are: what contacts do to finite differences.

Where a probe makes or breaks a contact, a derivative is huge and means nothing; the error there may
be small, so that no robust loss of errors would notice. Fits through windows count such ones less.
"""

from __future__ import annotations

import numpy as np

from policies.interface import Float

_STEEP = 3.0
"""Derivatives of this many usual ones begin to count less."""


def steepness(size: Float) -> Float:
    """Sizes over those at which a window begins to count less, (B, C).

    Args:
        size: size of the derivatives of each of B windows and C signals, (B, C).
    """
    usual = np.median(size, axis=0) + np.finfo(size.dtype).tiny
    relative: Float = size / (_STEEP * usual)
    return relative
