"""Percentiles over the newest samples of a quantity, without allocation while measuring."""

from __future__ import annotations

import numpy as np


class Percentiles:
    """Ring of the newest ``size`` samples."""

    def __init__(self, size: int = 4096) -> None:
        self._ring = np.zeros(size)
        self.count = 0

    def add(self, value: float) -> None:
        """Add one sample."""
        self._ring[self.count % len(self._ring)] = value
        self.count += 1

    def summary(self) -> dict[str, float | None]:
        """``{"p50":, "p95":, "p99":}`` over the samples held; None without samples."""
        if not self.count:
            return {"p50": None, "p95": None, "p99": None}
        held = self._ring[: min(self.count, len(self._ring))]
        p50, p95, p99 = np.percentile(held, [50, 95, 99])
        return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
