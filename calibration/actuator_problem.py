"""Unknowns of a robot's torques, and the columns that they multiply, joint by joint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.actuator_fit import Columns, Solution, Unknown, solve
from calibration.actuator_rows import Rows
from calibration.dynamics import PER_BODY, RigidBody
from calibration.inertia import Bodies
from calibration.signals import Float

Inertia = Literal["urdf", "payload", "all"]
STRIBECK_RAD_S = (0.03, 0.1, 0.3)
HIDDEN = ("body", "timing")
"""Kinds of unknowns that are no result."""

_PAYLOAD_STD = (1.0, 0.1)  # kg, kg m
_BODY_STD = 0.3
_DELAY_STD_S = 0.002
_STEP = 1e-6


@dataclass(frozen=True, kw_only=True)
class Nominal:
    """A robot's joints as they are expected, arrays (n,).

    Attributes:
        coulomb_nm, viscous_nm_s_rad, armature_kg_m2: friction and rotor inertia.
        kp_nm_rad, kd_nm_s_rad: gains of the joints' PD loops.
        effort_nm: torque limits.
    """

    coulomb_nm: Float
    viscous_nm_s_rad: Float
    armature_kg_m2: Float
    kp_nm_rad: Float
    kd_nm_s_rad: Float
    effort_nm: Float


@dataclass(frozen=True, kw_only=True)
class ActuatorConfig:
    """How actuators are calibrated.

    Attributes:
        inertia: ``urdf``: bodies are as the URDF says; ``payload``: and a small load on
            ``payload_link``; ``all``: every body may differ.
        payload_link: link that a load is on.
        torque: ``effort``: measured; ``command``: that of a PD loop on the commands.
        gravity_in_torque: False where the robot's own controller cancels gravity beside it.
        cutoff_hz: motion above it is not looked at.
        identified: what stays less certain than this part of what was expected is not identified.
    """

    inertia: Inertia = "payload"
    payload_link: str = ""
    torque: Literal["effort", "command"] = "effort"
    gravity_in_torque: bool = True
    cutoff_hz: float = 5.0
    identified: float = 0.5


def joint_columns(rows: Rows, j: int, stribeck_rad_s: float) -> dict[str, Float]:
    """Kind of a joint's own parameters -> what it multiplies in the joint's torque, (T,)."""
    near = rows.near_still[STRIBECK_RAD_S.index(stribeck_rad_s)]
    return {
        "coulomb": rows.direction[:, j],
        "viscous": rows.qvel_rad_s[:, j],
        "stribeck": near[:, j],
        "armature": rows.qacc_rad_s2[:, j],
        "offset": np.ones(len(rows)),
    }


class TorqueProblem:
    """Unknowns and their columns for one log."""

    def __init__(
        self,
        rows: Rows,
        body: RigidBody,
        nominal: Nominal,
        config: ActuatorConfig,
        names: tuple[str, ...],
        delay_std_s: float,
        sample_s: float,
    ) -> None:
        self._rows, self._body, self._config, self._names = rows, body, config, names
        self._nominal = nominal
        self._prior = body.parameters
        self._physical = Bodies(self._prior) if config.inertia == "all" else None
        self._unknowns = _inertial_unknowns(config, names)
        self._inertial = len(self._unknowns)
        # when torques, or commands, take effect is not known exactly; friction feels that
        self._timing = len(self._unknowns)
        self._unknowns.append(
            Unknown(name="timing", kind="timing", unit="s", prior=0.0, std=delay_std_s)
        )
        self._hold = len(self._unknowns)
        if config.torque == "command":
            # and a sampled loop acts on speeds of a while ago
            usual = 0.5 * sample_s
            self._unknowns.append(
                Unknown(name="hold", kind="timing", unit="s", prior=usual, std=usual)
            )
        self._places: dict[str, int] = {}
        for j, joint in enumerate(names):
            for unknown in _joint_unknowns(j, joint, nominal, config):
                self._places[unknown.name] = len(self._unknowns)
                self._unknowns.append(unknown)

    def bodies(self, value: Float) -> tuple[Float, Float]:
        """Inertial parameters (10 n,) and their derivative by the unknowns (10 n, p)."""
        if self._physical is not None:
            return self._physical.parameters(value), self._physical.jacobian(value)
        total, slope = self._prior.copy(), np.zeros((len(self._prior), len(value)))
        if self._config.inertia == "payload":
            place, T_body_link = self._body.body_of(self._config.payload_link)
            part = slice(PER_BODY * place, PER_BODY * (place + 1))
            at = _point_load(value, T_body_link)
            ahead = [_point_load(value + step, T_body_link) for step in _STEP * np.eye(4)]
            total[part] += at
            slope[part] = (np.array(ahead) - at).T / _STEP
        return total, slope

    def fit(self, stribeck_rad_s: float) -> tuple[Solution, Float, float]:
        """Estimate everything for one Stribeck speed; also the inertial parameters."""
        picked = parts_of(self._rows.bodies)

        def model(value: Float) -> tuple[dict[str, Float], dict[str, Columns]]:
            inertial, slope = self.bodies(value[: self._inertial])
            change, slope = (inertial - self._prior)[picked], slope[picked]
            found = {
                joint: self._joint(j, value, change, slope, stribeck_rad_s)
                for j, joint in enumerate(self._names)
                if self._rows.moving[:, j].any()
            }
            return {k: v[0] for k, v in found.items()}, {k: v[1] for k, v in found.items()}

        least = 1e-4 * self._nominal.effort_nm
        solution = solve(
            tuple(self._unknowns),
            model,
            identified=self._config.identified,
            least={joint: float(x) for joint, x in zip(self._names, least, strict=True)},
        )
        return solution, self.bodies(solution.value[: self._inertial])[0], stribeck_rad_s

    def _joint(
        self, j: int, value: Float, change: Float, slope: Float, stribeck_rad_s: float
    ) -> tuple[Float, Columns]:
        """Residual of a joint's torque, and its derivatives."""
        rows, joint = self._rows, self._names[j]
        use = rows.moving[:, j]
        own = joint_columns(rows, j, stribeck_rad_s)
        places = [self._places[f"{kind}.{joint}"] for kind in own]
        columns = np.stack([column[use] for column in own.values()], axis=1)
        regressor = rows.regressor[use, j]
        predicted = rows.urdf_nm[use, j] + regressor @ change + columns @ value[places]
        if not self._config.gravity_in_torque:
            predicted = predicted - rows.gravity_nm[use, j]
        late = value[self._timing]
        if self._config.torque == "effort":
            assert rows.torque_nm is not None
            assert rows.torque_rate_nm_s is not None
            rate = rows.torque_rate_nm_s[use, j]
            # readings are earlier or later than thought
            residual = rows.torque_nm[use, j] + late * rate - predicted
            more = [(self._timing, -rate)]
        else:
            kp, kd = float(self._nominal.kp_nm_rad[j]), float(self._nominal.kd_nm_s_rad[j])
            rate = kp * rows.command_rate_rad_s[use, j]
            drive = kp * (rows.command_rad - rows.qpos_rad)[use, j] - late * rate
            bend = kd * rows.qacc_rad_s2[use, j]
            drive = drive - kd * rows.qvel_rad_s[use, j] + value[self._hold] * bend
            at = self._places[f"strength.{joint}"]
            # over the strength: noise is in what drives the joint, not in what the model says
            residual = drive - predicted / value[at]
            columns, regressor = columns / value[at], regressor / value[at]
            more = [(self._timing, rate), (self._hold, -bend), (at, -predicted / value[at] ** 2)]
        index = [*range(self._inertial), *places, *(k for k, _ in more)]
        return residual, (
            np.array(index, np.intp),
            np.column_stack([regressor @ slope, columns, *(c for _, c in more)]),
        )


def parts_of(bodies: tuple[int, ...]) -> NDArray[np.intp]:
    """Places of the parameters of some bodies."""
    parts = [np.arange(PER_BODY * k, PER_BODY * (k + 1)) for k in bodies]
    return np.concatenate([*parts, np.zeros(0)]).astype(np.intp)


def _inertial_unknowns(config: ActuatorConfig, names: tuple[str, ...]) -> list[Unknown]:
    if config.inertia == "all":
        return [
            Unknown(name=f"body{k}.{name}", kind="body", unit="1", prior=0.0, std=_BODY_STD)
            for name in names
            for k in range(PER_BODY)
        ]
    if config.inertia == "urdf":
        return []
    link, (mass, moment) = config.payload_link, _PAYLOAD_STD
    out = [Unknown(name=f"payload.{link}", kind="payload", unit="kg", prior=0.0, std=mass, lower=0)]
    for axis in "xyz":
        name = f"payload_moment_{axis}.{link}"
        out.append(Unknown(name=name, kind="payload", unit="kg m", prior=0.0, std=moment))
    return out


def _joint_unknowns(j: int, joint: str, nominal: Nominal, config: ActuatorConfig) -> list[Unknown]:
    effort, kd = float(nominal.effort_nm[j]), float(nominal.kd_nm_s_rad[j])
    inertia = float(nominal.armature_kg_m2[j])
    coulomb, viscous = float(nominal.coulomb_nm[j]), float(nominal.viscous_nm_s_rad[j])
    table = [
        ("coulomb", "Nm", coulomb, 0.02 * effort, 0.0),
        ("viscous", "Nm s/rad", viscous, max(0.2 * kd, 0.2), 0.0),
        ("stribeck", "Nm", 0.0, 0.01 * effort, -np.inf),
        ("armature", "kg m^2", inertia, max(inertia, 1e-3), 0.1 * inertia),
        ("offset", "Nm", 0.0, 0.02 * effort, -np.inf),
    ]
    if config.torque == "command":
        table.append(("strength", "1", 1.0, 0.3, 0.05))
    return [
        Unknown(
            name=f"{kind}.{joint}",
            kind=kind,
            unit=unit,
            prior=prior,
            std=std,
            lower=lower,
            optional=kind == "stribeck",
        )
        for kind, unit, prior, std, lower in table
    ]


def _point_load(value: Float, T_body_link: Float) -> Float:
    """Inertial parameters of a small load in the body's frame, (10,).

    Args:
        value: its mass, kg, and mass times place in the link's frame, kg m, (4,).
        T_body_link: frame of the link in that of the body, (4, 4), m.
    """
    mass = max(float(value[0]), 1e-6)
    moment = T_body_link[:3, :3] @ value[1:] + T_body_link[:3, 3] * value[0]
    x, y, z = moment
    # no point is farther out than the load's mass can make its moment: 0.5 m
    share = np.array([x, y, z]) / max(mass, 2.0 * float(np.linalg.norm(moment)))
    turn = float(moment @ share) * np.eye(3) - np.outer(moment, share)
    ordered = [turn[0, 0], turn[0, 1], turn[1, 1], turn[0, 2], turn[1, 2], turn[2, 2]]
    return np.array([value[0], x, y, z, *ordered])


def motor_strength(
    rows: Rows, nominal: Nominal, names: tuple[str, ...], config: ActuatorConfig
) -> Solution:
    """Strength of the motors: measured torque over that of the nominal PD loop."""
    assert rows.torque_nm is not None
    torque_nm = rows.torque_nm
    unknowns: list[Unknown] = []
    for j, joint in enumerate(names):
        kp, effort = float(nominal.kp_nm_rad[j]), float(nominal.effort_nm[j])
        unknowns += [
            Unknown(name=f"strength.{joint}", kind="strength", unit="1", prior=1.0, std=0.3),
            Unknown(name=f"kd_ratio.{joint}", kind="kd", unit="1", prior=1.0, std=0.3),
            Unknown(name=f"zero.{joint}", kind="zero", unit="rad", prior=0.0, std=0.01),
            Unknown(name=f"delay.{joint}", kind="body", unit="s", prior=0.0, std=_DELAY_STD_S),
            Unknown(
                name=f"torque_by_acceleration.{joint}",
                kind="body",
                unit="kg m^2",
                prior=0.0,
                std=effort / 100.0 + kp / 1e3,
            ),
        ]

    def model(value: Float) -> tuple[dict[str, Float], dict[str, Columns]]:
        residual, columns = {}, {}
        for j, joint in enumerate(names):
            strength, ratio, zero, delay, rest = value[5 * j : 5 * j + 5]
            kp, kd = float(nominal.kp_nm_rad[j]), float(nominal.kd_nm_s_rad[j])
            late = rows.command_rad[:, j] - delay * rows.command_rate_rad_s[:, j]
            v, a = rows.qvel_rad_s[:, j], rows.qacc_rad_s2[:, j]
            drive = kp * (late + zero - rows.qpos_rad[:, j]) - kd * ratio * v
            slope = -strength * kp * rows.command_rate_rad_s[:, j]
            level = np.full(len(rows), strength * kp)
            columns[joint] = (
                np.arange(5 * j, 5 * j + 5, dtype=np.intp),
                np.stack([drive, -strength * kd * v, level, slope, a], axis=1),
            )
            residual[joint] = torque_nm[:, j] - strength * drive - rest * a
        return residual, columns

    return solve(
        tuple(unknowns),
        model,
        identified=config.identified,
        least={j: 1e-4 * float(e) for j, e in zip(names, nominal.effort_nm, strict=True)},
    )
