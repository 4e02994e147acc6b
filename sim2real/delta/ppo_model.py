"""A delta-action model that PPO has trained, in NumPy: the mean of the actor; its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from policies.checkpoint_files import CONFIG_FILE
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.rotation import rotate_inverse
from sim2real.delta.files import check_arrays, check_robot, write_model
from sim2real.delta.model import joint_indices
from sim2real.replay.open_loop import History
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

FORMAT = "realign-delta-ppo-1"
SETPOINT_UNIT_RAD = 0.25  # ASAP's action scale: its observations count logged actions in it


def observation_size(robot: RobotSpec) -> int:
    """Length of the actor's observation."""
    return 3 * robot.n + (10 if robot.floating_base else 0)


def observe(robot: RobotSpec, state: SimState, setpoint_rad: Float) -> Float:
    """What the actor sees of B states.

    In order: joint position minus default, joint velocity times 0.05, set-point minus default in
    units of 0.25 rad; for a legged robot base height, linear velocity times 2 and angular velocity
    times 0.25 in the base frame, and gravity direction.

    Args:
        robot: the robot.
        state: states, arrays (B, ...).
        setpoint_rad: set-points at the motors without delta, (B, n), rad.

    Returns:
        (B, :func:`observation_size`).

    Raises:
        InputError: a legged robot without base state.
    """
    parts = [
        state.qpos_rad - robot.default_rad,
        0.05 * state.qvel_rad_s,
        (setpoint_rad - robot.default_rad) / SETPOINT_UNIT_RAD,
    ]
    if robot.floating_base:
        position, turn = state.base_pos_m, state.base_quat_wxyz
        linear, angular = state.base_lin_vel_m_s, state.base_ang_vel_rad_s
        if position is None or turn is None or linear is None or angular is None:
            raise InputError(
                f"expected base pose and velocity in the states of {robot.name}, got none; "
                "record odom and imu together with joint_states"
            )
        down = np.broadcast_to(np.array([0.0, 0.0, -1.0]), (len(turn), 3))
        parts += [
            position[:, 2:],
            2.0 * rotate_inverse(turn, linear),
            0.25 * angular,
            rotate_inverse(turn, down),
        ]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, kw_only=True)
class PpoDelta:
    """Delta on the set-point from state and set-point, without history; it has no memory.

    Attributes:
        robot: the robot.
        rate_hz: control rate of the data it was trained on, Hz.
        joints: joints that get a delta, in the order of the outputs.
        hidden: widths of the hidden layers, ELU behind each.
        scale_rad: delta for an output of 1, rad.
        limit_rad: bound on the delta, rad.
        weights: for each layer ``w<i>`` (out, in) and ``b<i>`` (out,).
        simulator: how the simulator that it corrects differs from the nominal one.
        training: facts about the training, for the file.
        history: ticks of history that it needs, none.
        members: networks in it, one.
    """

    robot: RobotSpec
    rate_hz: float
    joints: tuple[str, ...]
    hidden: tuple[int, ...]
    scale_rad: float
    limit_rad: float
    weights: Mapping[str, Float] = field(repr=False)
    simulator: Gap = field(default_factory=Gap)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    history: int = field(default=0, init=False)
    members: int = field(default=1, init=False)

    @cached_property
    def _chosen(self) -> list[int]:
        return joint_indices(self.robot, self.joints)

    def __call__(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """The delta.

        Args:
            state: states, arrays (B, ...).
            setpoint_rad: set-points at the motors without delta, (B, n), rad.
            history: not used.

        Returns:
            Delta on the set-point, (B, n), rad, within ``limit_rad``.
        """
        x, last = observe(self.robot, state, setpoint_rad), len(self.hidden)
        for i in range(last + 1):
            x = x @ self.weights[f"w{i}"].T + self.weights[f"b{i}"]
            if i < last:  # ELU; exp of what is negative alone cannot overflow
                x = np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))
        out = np.zeros_like(setpoint_rad)
        out[:, self._chosen] = delta_of(x, self.scale_rad, self.limit_rad)
        return out

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
            "hidden": list(self.hidden),
            "scale_rad": self.scale_rad,
            "limit_rad": self.limit_rad,
            "simulator": self.simulator.to_json(),
            "training": dict(self.training),
        }
        write_model(out, config, self.weights, overwrite=overwrite)


def delta_of(action: Float, scale_rad: float, limit_rad: float) -> Float:
    """Bounded delta of raw actions of any shape, rad; training and replay both use it."""
    return np.clip(scale_rad * action, -limit_rad, limit_rad)


def layer_shapes(inputs: int, hidden: tuple[int, ...], outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of a model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (a, b) in enumerate(pairwise((inputs, *hidden, outputs))):
        shapes |= {f"w{i}": (b, a), f"b{i}": (b,)}
    return shapes


def ppo_from_config(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Float], robot: RobotSpec
) -> PpoDelta:
    """The model with a ``config.json`` of format :data:`FORMAT`.

    Args:
        path: its folder.
        config: content of ``config.json``.
        weights: its arrays.
        robot: the robot that it is going to be used with.

    Raises:
        InputError: damaged files, another robot or gains, arrays of wrong shape or not finite.
    """
    _check_config(path, config)
    check_robot(path, config, robot)
    model = PpoDelta(
        robot=robot,
        rate_hz=float(config["rate_hz"]),
        joints=tuple(config["joints"]),
        hidden=tuple(config["hidden"]),
        scale_rad=float(config["scale_rad"]),
        limit_rad=float(config["limit_rad"]),
        weights=weights,
        simulator=Gap.from_json(config.get("simulator", {}), f"{path / CONFIG_FILE}, 'simulator'"),
        training=config.get("training", {}),
    )
    joint_indices(robot, model.joints)
    check_arrays(
        path, weights, layer_shapes(observation_size(robot), model.hidden, len(model.joints))
    )
    return model


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    def positive(name: str) -> bool:
        value = config.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return 0.0 < value < np.inf

    joints, hidden = config.get("joints"), config.get("hidden")
    good = {name: positive(name) for name in ("rate_hz", "scale_rad", "limit_rad")}
    good |= {name: isinstance(config.get(name), str) for name in ("robot", "robot_fingerprint")}
    good["joints"] = (
        isinstance(joints, list) and bool(joints) and all(isinstance(x, str) for x in joints)
    )
    good["hidden"] = isinstance(hidden, list) and all(
        isinstance(x, int) and 0 < x <= 4096 for x in hidden
    )
    wrong = [name for name, valid in good.items() if not valid]
    if wrong:
        raise InputError(
            f"{path / CONFIG_FILE}: {wrong} missing or not valid; train the model again"
        )
