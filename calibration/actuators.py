"""Friction, armature, strength and payload of a robot's joints from motion and torques.

The torques of a rigid body are linear in its inertial parameters (C. Atkeson, C. An, J. Hollerbach,
1986); friction and armature are added to them, joint by joint. Everything is estimated together
about the URDF, in units of how far from it a robot is expected to be: what the log does not tell
stays there and is named. Bodies stay physical (:mod:`calibration.inertia`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calibration.actuator_fit import Solution
from calibration.actuator_problem import (
    HIDDEN,
    STRIBECK_RAD_S,
    ActuatorConfig,
    Nominal,
    TorqueProblem,
    joint_columns,
    motor_strength,
    parts_of,
)
from calibration.actuator_rows import Rows, make_rows
from calibration.dynamics import PER_BODY, RigidBody
from calibration.errors import CalibrationError
from calibration.latency import FAST_STATES_S, LatencyConfig, estimate_latency
from calibration.result import CalibrationResult, Parameter, Residual
from calibration.signals import Float, MotionLog

_FEWEST_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Actuators:
    """Calibrated joints.

    Attributes:
        joint_names: names of the n joints.
        solution: of friction, armature, offsets, inertia (and strength from commands).
        strength: of the motors by effort over command: unknowns and their estimate, or None.
        dead_time_s, dead_time_std_s: of commands, or None.
        inertial: parameters of all bodies that were found, (10 n,).
        urdf: those of the URDF, (10 n,).
        stribeck_rad_s: speed below which friction rises.
        unseen_payload: True where the motion does not tell a load on the payload's link.
        rms_nm: joint -> residual torque of the fit, Nm.
        config: see there.
    """

    joint_names: tuple[str, ...]
    solution: Solution
    strength: Solution | None
    dead_time_s: float | None
    dead_time_std_s: float | None
    inertial: Float
    urdf: Float
    stribeck_rad_s: float
    unseen_payload: bool
    rms_nm: dict[str, float]
    config: ActuatorConfig = field(default_factory=ActuatorConfig)

    def values(self) -> dict[str, tuple[float, float, str, bool]]:
        """Name -> value, standard deviation, unit, and whether the log tells it."""
        out: dict[str, tuple[float, float, str, bool]] = {}
        for solution in filter(None, (self.solution, self.strength)):
            std = np.sqrt(np.diag(solution.covariance))
            for k, unknown in enumerate(solution.unknowns):
                if unknown.kind not in HIDDEN:
                    told = bool(solution.told[k])
                    number = float(solution.value[k]), float(std[k])
                    out[unknown.name] = (*number, unknown.unit, told)
        if self.dead_time_s is not None and self.dead_time_std_s is not None:
            out["dead_time"] = self.dead_time_s, self.dead_time_std_s, "s", True
        return out

    def to_result(
        self, residuals: dict[str, Residual], details: dict[str, Any], data_sha256: str
    ) -> CalibrationResult:
        """The versioned result: everything that the log tells, with its covariance."""
        parameters, blocks = [], []
        for solution in filter(None, (self.solution, self.strength)):
            keep = [
                k
                for k, unknown in enumerate(solution.unknowns)
                if solution.told[k] and unknown.kind not in HIDDEN
            ]
            parameters += [
                Parameter(
                    name=solution.unknowns[k].name,
                    value=float(solution.value[k]),
                    unit=solution.unknowns[k].unit,
                )
                for k in keep
            ]
            blocks.append(solution.covariance[np.ix_(keep, keep)])
        if self.dead_time_s is not None and self.dead_time_std_s is not None:
            parameters.append(Parameter(name="dead_time", value=self.dead_time_s, unit="s"))
            blocks.append(np.array([[self.dead_time_std_s**2]]))
        return CalibrationResult(
            kind="actuators",
            parameters=tuple(parameters),
            covariance=_block_diagonal(blocks),
            frames={"body": "moves with the joint of its name; origin and axes of that joint"},
            residuals={
                f"torque.{name}": Residual(value=rms, unit="Nm")
                for name, rms in self.rms_nm.items()
            }
            | residuals,
            details={**self._details(), **details},
            data_sha256=data_sha256,
        )

    def _details(self) -> dict[str, Any]:
        bodies, condition = self.inertial.reshape(-1, PER_BODY), self.solution.condition
        return {
            "inertia": self.config.inertia,
            "torque": self.config.torque,
            "gravity_in_torque": self.config.gravity_in_torque,
            "condition": condition if np.isfinite(condition) else None,
            "combinations_told": self.solution.combinations,
            "combinations": len(self.solution.unknowns),
            "not_told": self.solution.weak,
            "payload_told": self.config.inertia == "payload" and not self.unseen_payload,
            "kept_at_prior": [
                unknown.name
                for solution in filter(None, (self.solution, self.strength))
                for unknown, told in zip(solution.unknowns, solution.told, strict=True)
                if not told
            ],
            "stribeck_rad_s": self.stribeck_rad_s,
            "bodies": {
                name: body.tolist() for name, body in zip(self.joint_names, bodies, strict=True)
            },
        }

    def torque(self, rows: Rows) -> Float:
        """Torques that the calibrated robot needs for a motion, (T, n), Nm."""
        change = (self.inertial - self.urdf)[parts_of(rows.bodies)]
        out = rows.urdf_nm + rows.regressor @ change
        if not self.config.gravity_in_torque:
            out = out - rows.gravity_nm
        pairs = zip(self.solution.unknowns, self.solution.value, strict=True)
        value = {unknown.name: float(x) for unknown, x in pairs}
        for j, joint in enumerate(self.joint_names):
            columns = joint_columns(rows, j, self.stribeck_rad_s)
            out[:, j] += sum(value[f"{kind}.{joint}"] * c for kind, c in columns.items())
        return out


def _block_diagonal(blocks: list[Float]) -> Float:
    total = np.zeros((sum(len(block) for block in blocks),) * 2)
    at = 0
    for block in blocks:
        total[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return total


def calibrate_actuators(
    log: MotionLog, body: RigidBody, nominal: Nominal, config: ActuatorConfig
) -> Actuators:
    """Find friction, armature, strength and inertia.

    Args:
        log: motion that moves every joint, e.g. of :mod:`calibration.excitation`.
        body: the robot's model.
        nominal: joints as they are expected.
        config: how.

    Raises:
        CalibrationError: too short, no torques, or joints that hardly move.
    """
    if config.torque == "effort" and log.effort_nm is None:
        raise CalibrationError(
            "expected measured torques in the joint states, got none; use those of the commands "
            "(--torque command)"
        )
    delays = estimate_latency(
        log, LatencyConfig(gravity_compensated=not config.gravity_in_torque), body
    )
    dead = delays.overall("dead_time")
    if config.torque == "command" and dead is None:
        raise CalibrationError(
            "expected joints that follow their commands like PD loops, but no dead time of the "
            "commands explains the motion; record torques"
        )
    rows = rows_of(log, body, config, dead.value_s if dead else 0.0)
    _require_motion(rows, log.joint_names)
    sample_s = float(np.median(np.diff(log.state_s)))
    doubt_s = sample_s if config.torque == "effort" or dead is None else dead.std_s + sample_s / 2
    timing = doubt_s, sample_s
    solution, inertial, stribeck = _best(rows, body, nominal, config, log.joint_names, timing)
    unseen = config.inertia == "payload" and not solution.told[0]
    if unseen:  # a load without mass has no place either
        bare = replace(config, inertia="urdf")
        solution, inertial, stribeck = _best(rows, body, nominal, bare, log.joint_names, timing)
    motors = None
    if config.torque == "effort" and dead is not None and fast_enough(log):
        motors = motor_strength(rows, nominal, log.joint_names, config)
    return Actuators(
        joint_names=log.joint_names,
        solution=solution,
        strength=motors,
        dead_time_s=dead.value_s if dead else None,
        dead_time_std_s=dead.std_s if dead else None,
        inertial=inertial,
        urdf=body.parameters,
        stribeck_rad_s=stribeck,
        unseen_payload=unseen,
        rms_nm={
            name: float(np.sqrt(np.mean(residual**2)))
            for name, residual in solution.residual.items()
        },
        config=config,
    )


def _best(
    rows: Rows,
    body: RigidBody,
    nominal: Nominal,
    config: ActuatorConfig,
    names: tuple[str, ...],
    timing: tuple[float, float],
) -> tuple[Solution, Float, float]:
    """The fit of the Stribeck speed that explains the torques best."""
    problem = TorqueProblem(rows, body, nominal, config, names, *timing)
    return min((problem.fit(speed) for speed in STRIBECK_RAD_S), key=lambda fit: fit[0].cost)


def fast_enough(log: MotionLog) -> bool:
    """True where the states are so fast that efforts are no snapshots of a command's time."""
    return float(np.median(np.diff(log.state_s))) <= FAST_STATES_S


def rows_of(
    log: MotionLog,
    body: RigidBody,
    config: ActuatorConfig,
    delay_s: float = 0.0,
    *,
    dense: bool = False,
) -> Rows:
    """Columns of a log, as the calibration sees it.

    Args:
        log: the log.
        body: the robot's model.
        config: how.
        delay_s: between a command and its effect.
        dense: all samples, to look at; not only those that are nearly independent.
    """
    bodies: tuple[int, ...] = ()
    if config.inertia == "all":
        bodies = tuple(range(len(log.joint_names)))
    elif config.inertia == "payload":
        bodies = (body.body_of(config.payload_link)[0],)
    return make_rows(
        log,
        body,
        cutoff_hz=config.cutoff_hz,
        delay_s=delay_s,
        stribeck_rad_s=STRIBECK_RAD_S,
        bodies=bodies,
        dense=dense,
    )


def _require_motion(rows: Rows, names: tuple[str, ...]) -> None:
    still = [name for name, few in zip(names, rows.moving.sum(axis=0), strict=True) if few == 0]
    if still:
        raise CalibrationError(
            f"expected motion of every joint, but {', '.join(still)} hardly moves; play a motion "
            "of `realign calibrate excite`"
        )
    if rows.moving.sum(axis=0).max() < _FEWEST_ROWS:
        raise CalibrationError(
            f"expected joints in motion for at least {_FEWEST_ROWS} tenths of a second, got "
            f"{rows.moving.sum(axis=0).max()}; record more, or faster, motion"
        )


def torque_errors(
    found: Actuators, log: MotionLog, body: RigidBody
) -> tuple[Rows, dict[str, Float], dict[str, dict[str, float]]]:
    """Torques of a log that a calibration has not seen, predicted and measured.

    Args:
        found: the calibration.
        log: with measured torques.
        body: the robot's model.

    Returns:
        The log's rows; torques ``urdf`` and ``calibrated``, (T, n); and of each the residual of
        each joint, root of the mean squared difference to the measured torque, Nm.
    """
    rows = rows_of(log, body, found.config, dense=True)
    measured = rows.torque_nm
    if measured is None:
        raise CalibrationError(
            "expected measured torques in the held-out part, got none; leave --hold-out-s out"
        )
    urdf = rows.urdf_nm if found.config.gravity_in_torque else rows.urdf_nm - rows.gravity_nm
    predicted = {"urdf": urdf, "calibrated": found.torque(rows)}
    rms = {
        name: dict(
            zip(
                found.joint_names,
                np.sqrt(np.mean((torque - measured) ** 2, axis=0)).tolist(),
                strict=True,
            )
        )
        for name, torque in predicted.items()
    }
    return rows, predicted, rms


def gravity_is_in_torque(log: MotionLog, body: RigidBody) -> bool:
    """True if measured torques hold the arm's weight; False if its controller does so beside.

    Raises:
        CalibrationError: no torques were measured.
    """
    if log.effort_nm is None:
        raise CalibrationError("expected measured torques in the joint states, got none")
    some = slice(None, None, max(1, len(log.state_s) // 2000))
    gravity, effort = body.gravity(log.qpos_rad[some]), log.effort_nm[some]
    return float(np.sum((effort - gravity) ** 2)) < float(np.sum(effort**2))
