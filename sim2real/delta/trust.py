"""The trust gate: away from the data that it was trained on, a delta fades to zero.

Two signs of the unknown. For each joint: set-point error, velocity or position outside the range
of the training data fade that joint's delta. For the networks: members that disagree more than they
did on held-out data fade the networks' part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from policies.interface import Float, RobotSpec
from sim2real.replay.open_loop import History
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

if TYPE_CHECKING:
    from sim2real.delta.model import DeltaModel

RANGES = 3
_INSIDE, _OUTSIDE = 0.25, 1.5  # of the training range's width
_AGREES, _DISAGREES = 1.0, 3.0  # of the held-out disagreement
_SPREAD_QUANTILE = 0.95
_NARROWEST = (0.02, 0.5, 0.05)  # rad, rad/s, rad: a joint that never moved is not a range of zero


def coordinates(robot: RobotSpec, state: SimState, setpoint_rad: Float) -> Float:
    """What a joint's range is about: set-point error, velocity, position, (B, 3, n)."""
    q = state.qpos_rad
    return np.stack([setpoint_rad - q, state.qvel_rad_s, q - robot.default_rad], axis=1)


def ranges(values: Float) -> tuple[Float, Float]:
    """Lower and upper ends of :func:`coordinates` over the training data, each (3, n)."""
    low, high = values.min(axis=0), values.max(axis=0)
    short = np.maximum(np.array(_NARROWEST)[:, None] - (high - low), 0.0)
    return low - 0.5 * short, high + 0.5 * short


def joint_trust(values: Float, low: Float, high: Float) -> Float:
    """Trust in each joint, 1 inside the ranges to 0 far outside, (B, 3, n) -> (B, n)."""
    beyond = np.maximum(np.maximum(low - values, values - high), 0.0) / (high - low)
    return _fade(beyond.max(axis=1), _INSIDE, _OUTSIDE)


def network_trust(each_rad: Float, unit_rad: Float, spread: float) -> Float:
    """Trust in the networks, from the disagreement of their members, (members, B, m) -> (B,).

    Args:
        each_rad: delta of each member, rad.
        unit_rad: typical size of each delta, (m,), rad.
        spread: disagreement that is normal, see :func:`usual_spread`.
    """
    return _fade(disagreement(each_rad, unit_rad) / spread, _AGREES, _DISAGREES)


def disagreement(each_rad: Float, unit_rad: Float) -> Float:
    """Root mean square over joints of the members' standard deviation, (B,), in typical deltas."""
    deviation: Float = np.sqrt(((each_rad / unit_rad).var(axis=0)).mean(axis=-1))
    return deviation


def usual_spread(each_rad: Float, unit_rad: Float) -> float:
    """Disagreement that 95 % of held-out data stay below."""
    values = disagreement(each_rad, unit_rad)
    return max(float(np.quantile(values, _SPREAD_QUANTILE)), 1e-6)


def _fade(x: Float, full: float, none: float) -> Float:
    return np.clip((none - x) / (none - full), 0.0, 1.0)


@dataclass
class TrustMeter:
    """A delta-action model that remembers how far it was trusted.

    Args:
        model: the model; its deltas pass unchanged.
    """

    model: DeltaModel
    _joints: list[Float] = field(default_factory=list)
    _network: list[Float] = field(default_factory=list)

    @property
    def rate_hz(self) -> float:
        """Control rate of the model, Hz."""
        return self.model.rate_hz

    @property
    def history(self) -> int:
        """Ticks of history that the model needs."""
        return self.model.history

    @property
    def simulator(self) -> Gap:
        """The simulator that the model corrects."""
        return self.model.simulator

    def __call__(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """Delta of the model, (B, n), rad."""
        delta, joints, network = self.model.detailed(state, setpoint_rad, history)
        self._joints.append(joints.mean(axis=0))
        self._network.append(np.array([network.mean(), (network < 0.5).mean()]))
        return delta

    def summary(self) -> dict[str, float | list[float]]:
        """Mean trust over all calls: of joints, of the networks, and share of distrusted states."""
        if not self._joints:
            return {}
        joints = np.mean(self._joints, axis=0)
        network = np.mean(self._network, axis=0)
        return {
            "joints": float(joints.mean()),
            "per_joint": joints.tolist(),
            "network": float(network[0]),
            "network_below_half": float(network[1]),
        }
