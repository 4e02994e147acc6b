"""Inertial parameters that a real body can have.

A body's mass, centre and inertia are physical exactly if its pseudo-inertia, the (4, 4) matrix of
second moments of (position, 1), is positive definite (P. Wensing, S. Kim, J.-J. Slotine, 2018). A
body is described by ten numbers about the prior one, J = L U U^T L^T with L of the prior and U
upper triangular with exponentials on its diagonal (C. Rucker, P. Wensing, 2022, the log-Cholesky
form): whatever they are, the body is physical; all zero is the prior; and each is a relative
change, so that one standard deviation serves large and small bodies.
"""

from __future__ import annotations

import numpy as np

from calibration.signals import Float

PER_BODY = 10
_UPPER = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)]
_STEP = 1e-6
_LEAST = 1e-6  # of the largest moment: the thinnest that a prior body may be


def pseudo_inertia(parameters: Float) -> Float:
    """Second moments (4, 4) of (m, mc, xx, xy, yy, xz, yz, zz), (10,)."""
    m, x, y, z, xx, xy, yy, xz, yz, zz = parameters
    turn = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    out = np.zeros((4, 4))
    out[:3, :3] = 0.5 * np.trace(turn) * np.eye(3) - turn
    out[:3, 3] = out[3, :3] = x, y, z
    out[3, 3] = m
    return out


def from_pseudo_inertia(moments: Float) -> Float:
    """The inverse of :func:`pseudo_inertia`, (10,)."""
    turn = np.trace(moments[:3, :3]) * np.eye(3) - moments[:3, :3]
    ordered = [turn[0, 0], turn[0, 1], turn[1, 1], turn[0, 2], turn[1, 2], turn[2, 2]]
    return np.array([moments[3, 3], *moments[:3, 3], *ordered])


class Bodies:
    """Physical bodies about prior ones; a prior that is no body is moved to the nearest one.

    Args:
        prior: parameters of B bodies, (10 B,).
    """

    def __init__(self, prior: Float) -> None:
        self._roots = [self._root(pseudo_inertia(body)) for body in prior.reshape(-1, PER_BODY)]
        self.count = len(self._roots)

    @staticmethod
    def _root(moments: Float) -> Float:
        values, vectors = np.linalg.eigh(moments)
        values = np.maximum(values, _LEAST * max(float(values[-1]), 1e-6))
        return np.asarray(np.linalg.cholesky(vectors @ np.diag(values) @ vectors.T), float)

    def _one(self, body: int, change: Float) -> Float:
        upper = np.eye(4)
        for value, place in zip(change, _UPPER, strict=True):
            upper[place] = np.exp(value) if place[0] == place[1] else value
        root = self._roots[body] @ upper
        return from_pseudo_inertia(root @ root.T)

    def parameters(self, change: Float) -> Float:
        """Parameters (10 B,) of the bodies that ``change`` (10 B,) describes."""
        rows = change.reshape(-1, PER_BODY)
        return np.concatenate([self._one(i, row) for i, row in enumerate(rows)])

    def jacobian(self, change: Float) -> Float:
        """Derivative of :meth:`parameters`, (10 B, 10 B), block by block."""
        out = np.zeros((len(change), len(change)))
        for i, row in enumerate(change.reshape(-1, PER_BODY)):
            part = slice(PER_BODY * i, PER_BODY * (i + 1))
            for k in range(PER_BODY):
                step = np.zeros(PER_BODY)
                step[k] = _STEP
                ahead, behind = self._one(i, row + step), self._one(i, row - step)
                out[part, PER_BODY * i + k] = (ahead - behind) / (2 * _STEP)
        return out


def is_physical(parameters: Float) -> bool:
    """True if every body (10 B,) has a positive mass and an inertia that matter can have."""
    bodies = parameters.reshape(-1, PER_BODY)
    return all(np.linalg.eigvalsh(pseudo_inertia(body))[0] > 0.0 for body in bodies)
