"""The delta-action model in NumPy: motor terms, an ensemble of small networks, a gate; its files.

The motor terms (:mod:`sim2real.delta.motor`) carry what has a physical name and holds for motions
that were never seen; the networks, SiLU on standardised features, add what is left; the gate
(:mod:`sim2real.delta.trust`) fades both where the data ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from policies.checkpoint_files import CONFIG_FILE
from policies.errors import InputError
from policies.interface import Float, RobotSpec, reorder_index
from sim2real.delta.features import feature_count, features
from sim2real.delta.files import check_arrays, check_robot, read_model, write_model
from sim2real.delta.motor import TERMS, term_values
from sim2real.delta.trust import RANGES, coordinates, joint_trust, network_trust
from sim2real.replay.open_loop import DeltaAction, History
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

FORMAT = "realign-delta-2"
_SMALLEST_SCALE = 1e-6


def joint_indices(robot: RobotSpec, joints: tuple[str, ...]) -> list[int]:
    """Indices of joints by name; ``_joint`` at the end may be left out, no name means all.

    Raises:
        InputError: unknown or repeated name.
    """
    have = robot.joint_names
    full = tuple(name if name in have else f"{name}_joint" for name in joints) or have
    unknown = [given for given, name in zip(joints, full, strict=False) if name not in have]
    if unknown:
        raise InputError(
            f"expected joints of {robot.name} out of {[n.removesuffix('_joint') for n in have]}, "
            f"got {unknown}; correct the names"
        )
    if len(set(full)) != len(full):
        raise InputError(f"expected each joint once, got {list(joints)}; remove the repetition")
    return [int(i) for i in reorder_index(have, full, robot.name)]


def weight_shapes(
    inputs: int, hidden: tuple[int, ...], outputs: int, members: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's arrays.

    Returns:
        ``shift`` and ``scale`` of the features, ``unit`` of the outputs in rad, the linear map
        ``skip``, and for each layer ``w<i>`` (members, in, out) and ``b<i>`` (members, out).
    """
    sizes = (inputs, *hidden, outputs)
    shapes: dict[str, tuple[int, ...]] = {
        "shift": (inputs,),
        "scale": (inputs,),
        "unit": (outputs,),
        "skip": (members, inputs, outputs),
    }
    for i, (a, b) in enumerate(pairwise(sizes)):
        shapes[f"w{i}"] = (members, a, b)
        shapes[f"b{i}"] = (members, b)
    return shapes


def ensemble(weights: Mapping[str, Float], inputs: Float) -> Float:
    """Answers of all members of an ensemble with arrays of :func:`weight_shapes`.

    Args:
        weights: the arrays.
        inputs: features, (B, inputs).

    Returns:
        (members, B, outputs), in the units of what it was fitted to.
    """
    x = (inputs - weights["shift"]) / weights["scale"]
    members = weights["skip"].shape[0]
    hidden = np.broadcast_to(x, (members, *x.shape))
    last = sum(name.startswith("w") for name in weights) - 1
    for i in range(last + 1):
        hidden = hidden @ weights[f"w{i}"] + weights[f"b{i}"][:, None]
        if i < last:  # SiLU; tanh cannot overflow as exp can
            hidden = hidden * (0.5 + 0.5 * np.tanh(0.5 * hidden))
    out: Float = (x @ weights["skip"] + hidden) * weights["unit"]
    return out


def model_shapes(robot: RobotSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that every model has beside the networks'.

    Returns:
        ``motor`` (n, terms), and the ranges ``low`` and ``high`` of the gate (3, n).
    """
    gate = (RANGES, robot.n)
    return {"motor": (robot.n, len(TERMS)), "low": gate, "high": gate}


@dataclass(frozen=True, kw_only=True)
class DeltaModel:
    """Delta on the set-point from state, set-point and history; a function without state.

    Attributes:
        robot: the robot.
        rate_hz: control rate of the data it was trained on, Hz.
        joints: joints that get a delta, in the order of the networks' outputs.
        history: ticks of history that it is given, of which the networks see ``window``.
        window: ticks of history in the networks' features.
        hidden: widths of the hidden layers.
        members: networks in the ensemble.
        limit_rad: bound on the delta, rad.
        gain: factor on the networks' part, chosen on held-out data; 0 for motor terms alone.
        spread: disagreement of the members that is normal.
        weights: arrays of :func:`model_shapes` and, unless ``gain`` is 0, :func:`weight_shapes`.
        simulator: how the simulator that it corrects differs from the nominal one.
        training: facts about the training, for the file.
    """

    robot: RobotSpec
    rate_hz: float
    joints: tuple[str, ...]
    window: int
    hidden: tuple[int, ...]
    members: int
    limit_rad: float
    gain: float
    spread: float
    weights: Mapping[str, Float] = field(repr=False)
    simulator: Gap = field(default_factory=Gap)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def history(self) -> int:
        """Ticks of history that it must be given; the motor terms look at one."""
        return max(self.window, 1)

    @cached_property
    def _chosen(self) -> list[int]:
        return joint_indices(self.robot, self.joints)

    def motor(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """Part of the motor terms, without gate and bound, (B, n), rad."""
        values = term_values(self.robot, state, setpoint_rad, history, self.rate_hz)
        part: Float = (values * self.weights["motor"]).sum(axis=-1)
        return part

    def each(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """What each network adds, without gain, gate and bound, (members, B, m), rad."""
        seen = features(self.robot, state, setpoint_rad, history.last(self.window))
        return ensemble(self.weights, seen)

    def detailed(
        self, state: SimState, setpoint_rad: Float, history: History
    ) -> tuple[Float, Float, Float]:
        """Delta (B, n) in rad, trust in each joint (B, n) and in the networks (B,), 0 to 1."""
        w = self.weights
        values = coordinates(self.robot, state, setpoint_rad)
        joints = joint_trust(values, w["low"], w["high"])
        delta = self.motor(state, setpoint_rad, history)
        network = np.ones(len(delta))
        if self.gain > 0.0:
            each = self.each(state, setpoint_rad, history)
            network = network_trust(each, w["unit"], self.spread)
            delta[:, self._chosen] += self.gain * network[:, None] * each.mean(axis=0)
        return np.clip(joints * delta, -self.limit_rad, self.limit_rad), joints, network

    def __call__(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """The delta.

        Args:
            state: states, arrays (B, ...).
            setpoint_rad: set-points at the motors without delta, (B, n), rad.
            history: the ticks before, (B, H, n).

        Returns:
            Delta on the set-point, (B, n), rad, within ``limit_rad``.
        """
        return self.detailed(state, setpoint_rad, history)[0]

    def save(self, out: Path, *, overwrite: bool = False) -> None:
        """Write ``config.json`` and ``model.safetensors`` into the folder ``out``.

        Raises:
            InputError: ``out`` exists and ``overwrite`` is False, or is not a delta model.
        """
        config = {
            "format": FORMAT,
            "robot": self.robot.name,
            "robot_fingerprint": self.robot.fingerprint,
            "rate_hz": self.rate_hz,
            "joints": list(self.joints),
            "window": self.window,
            "hidden": list(self.hidden),
            "members": self.members,
            "limit_rad": self.limit_rad,
            "gain": self.gain,
            "spread": self.spread,
            "simulator": self.simulator.to_json(),
            "training": dict(self.training),
        }
        write_model(out, config, self.weights, overwrite=overwrite)


class SavedDelta(DeltaAction, Protocol):
    """A delta-action model from a file, of either kind."""

    @property
    def robot(self) -> RobotSpec:
        """The robot that it is for."""

    @property
    def joints(self) -> tuple[str, ...]:
        """Joints that get a delta."""

    @property
    def members(self) -> int:
        """Networks in it."""


def load_delta(path: Path, robot: RobotSpec) -> SavedDelta:
    """Read a model that ``realign delta train`` wrote, by either method.

    Args:
        path: its folder.
        robot: the robot that it is going to be used with.

    Raises:
        InputError: missing or damaged files, another robot or other gains, arrays of wrong shape
            or with values that are not finite.
    """
    from sim2real.delta import ppo_model  # it is built on this module

    config, weights = read_model(path)
    if config.get("format") == ppo_model.FORMAT:
        return ppo_model.ppo_from_config(path, config, weights, robot)
    _check_config(path, config)
    check_robot(path, config, robot)
    joint_indices(robot, tuple(config["joints"]))
    model = DeltaModel(
        robot=robot,
        rate_hz=float(config["rate_hz"]),
        joints=tuple(config["joints"]),
        window=int(config["window"]),
        hidden=tuple(config["hidden"]),
        members=int(config["members"]),
        limit_rad=float(config["limit_rad"]),
        gain=float(config["gain"]),
        spread=float(config["spread"]),
        weights=weights,
        simulator=Gap.from_json(config.get("simulator", {}), f"{path / CONFIG_FILE}, 'simulator'"),
        training=config.get("training", {}),
    )
    _check_weights(path, model)
    return model


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    file = path / CONFIG_FILE
    types: dict[str, type | tuple[type, ...]] = {
        "robot": str,
        "robot_fingerprint": str,
        "rate_hz": (int, float),
        "joints": list,
        "window": int,
        "hidden": list,
        "members": int,
        "limit_rad": (int, float),
        "gain": (int, float),
        "spread": (int, float),
    }
    if config.get("format") != FORMAT:
        raise InputError(f"{file}: expected a delta model of format {FORMAT}, got something else")
    wrong = [name for name, kind in types.items() if not isinstance(config.get(name), kind)]
    if not wrong:
        lists = {
            "joints": bool(config["joints"]) and all(isinstance(x, str) for x in config["joints"]),
            "hidden": all(isinstance(x, int) and 0 < x <= 4096 for x in config["hidden"]),
            "members": 0 < config["members"] <= 100,
            "window": 0 <= config["window"] <= 1000,
            "rate_hz": 0 < config["rate_hz"] < np.inf,
            "limit_rad": 0 < config["limit_rad"] < np.inf,
            "gain": 0 <= config["gain"] <= 1,
            "spread": 0 < config["spread"] < np.inf,
        }
        wrong = [name for name, good in lists.items() if not good]
    if wrong:
        raise InputError(f"{file}: {wrong} missing or not valid; train the model again")


def _check_weights(path: Path, model: DeltaModel) -> None:
    inputs = feature_count(model.robot, model.window)
    want = model_shapes(model.robot)
    if model.gain > 0.0:
        want |= weight_shapes(inputs, model.hidden, len(model.joints), model.members)
    check_arrays(path, model.weights, want)
    w = model.weights
    positive = {"high": w["high"] - w["low"]} | {k: w[k] for k in ("scale", "unit") if k in w}
    bad = sorted(k for k, v in positive.items() if (v < _SMALLEST_SCALE).any())
    if bad:
        raise InputError(
            f"{path}: expected positive scales and ranges, got others in {bad}; "
            "train the model again"
        )
