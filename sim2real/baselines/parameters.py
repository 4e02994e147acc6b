"""What system identification may change: parameters with priors, scales and physical bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.gaps import Gap, end_body
from sim2real.sim.model import FLOOR_FRICTION, FLOOR_SOFTNESS_S

Detail = Literal["robot", "group", "side", "joint"]

KINDS = (
    *("strength", "kp", "kd", "limit", "friction", "damping", "armature", "spring", "offset"),
    *("payload", "floor", "delay"),
)
"""Kinds of parameters, each a field of a gap or several."""

_TABLES = {
    "strength": "strength",
    "kp": "kp",
    "kd": "kd",
    "limit": "torque_limit",
    "friction": "friction_nm",
    "damping": "damping_nm_s_rad",
    "armature": "armature_kg_m2",
    "spring": "spring_nm_rad",
    "offset": "offset_rad",
}
_UNITS = {
    "friction": "Nm",
    "damping": "Nm s/rad",
    "armature": "kg m²",
    "spring": "Nm/rad",
    "offset": "rad",
}
_LEGGED_GROUPS = ("hip", "knee", "ankle", "waist", "shoulder", "elbow", "wrist")
_MOST_DELAY_S = 0.1
# A robot in a simulator has its real gains; of a foreign position controller only the order of
# magnitude is known.
_FACTOR_STD = {
    "setpoint": {"strength": 0.3, "kp": 0.3, "kd": 0.3, "limit": 0.2},
    "position": {"strength": 1.0, "kp": 1.0, "kd": 1.0, "limit": 0.2},
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number to identify.

    Attributes:
        name: e.g. ``strength left_knee``.
        kind: one of :data:`KINDS`.
        joints: joints that share it; none for payload, floor and delay.
        axis: coordinate of a payload's centre, 0 to 2; -1 for its mass. 0 for friction and 1 for
            softness of the floor.
        prior: nominal value.
        scale: standard deviation of the prior: how far a robot is expected to be from it; for a
            factor that of its logarithm.
        factor: True for a factor on the nominal value.
        lower, upper: physical bounds.
        unit: of all these.
    """

    name: str
    kind: str
    joints: tuple[str, ...] = ()
    axis: int = -1
    prior: float = 0.0
    scale: float
    lower: float
    upper: float
    factor: bool = False
    unit: str = ""

    def standard(self, value: float) -> float:
        """``value`` in standard deviations from the prior."""
        if self.factor:
            return float(np.log(value / self.prior)) / self.scale
        return (value - self.prior) / self.scale

    def value(self, standard: float) -> float:
        """The inverse of :meth:`standard`."""
        if self.factor:
            return float(self.prior * np.exp(self.scale * standard))
        return self.prior + self.scale * standard

    def spread(self, value: float, standard: float) -> float:
        """Standard deviation at ``value`` of one of ``standard`` times the prior's."""
        return standard * self.scale * (value if self.factor else 1.0)


def joint_groups(robot: RobotSpec, detail: Detail) -> dict[str, tuple[str, ...]]:
    """Joints that share a parameter.

    Args:
        robot: the robot.
        detail: ``joint`` for each alone; ``side`` for a legged robot's hips, knees, ankles, waist
            and arms with left and right apart; ``group`` for left and right together; ``robot``
            for none of the joints. An arm's joints are always alone.
    """
    if detail == "robot":
        return {}
    if detail == "joint" or not robot.floating_base:
        return {name.removesuffix("_joint"): (name,) for name in robot.joint_names}
    groups: dict[str, list[str]] = {}
    for name in robot.joint_names:
        part = next((g for g in _LEGGED_GROUPS if f"{g}_" in f"{name}_"), name)
        side = next((s for s in ("left", "right") if name.startswith(f"{s}_")), "")
        key = f"{side}_{part}" if side and detail == "side" else part
        groups.setdefault(key, []).append(name)
    return {key: tuple(names) for key, names in groups.items()}


def list_parameters(
    robot: RobotSpec, kinds: Sequence[str], detail: Detail
) -> tuple[Parameter, ...]:
    """Parameters of some kinds.

    Args:
        robot: the robot.
        kinds: out of :data:`KINDS`.
        detail: see :func:`joint_groups`.

    Raises:
        InputError: unknown or repeated kinds, or none.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) != len(kinds):
        raise InputError(
            f"expected parameters out of {list(KINDS)}, each once, got {list(kinds)}; correct them"
        )
    out: list[Parameter] = []
    for kind in kinds:
        if kind in _TABLES:
            for group, joints in joint_groups(robot, detail).items():
                out.append(_joint_parameter(robot, kind, group, joints))
        elif kind == "payload":
            out += _payload(robot)
        elif kind == "floor":
            out += _floor(robot)
        else:
            out.append(
                Parameter(
                    name="delay", kind=kind, scale=0.02, lower=0.0, upper=_MOST_DELAY_S, unit="s"
                )
            )
    return tuple(out)


def _joint_parameter(robot: RobotSpec, kind: str, group: str, joints: tuple[str, ...]) -> Parameter:
    index = [robot.joint_names.index(name) for name in joints]

    def typical(attribute: str) -> float:
        return float(np.median(robot.array(attribute)[index]))

    def removable(attribute: str, share: float = 1.0) -> float:
        """Most that can be taken from each of the joints, as a lower bound."""
        return -share * float(robot.array(attribute)[index].min())

    prior, factor = 0.0, kind in _FACTOR_STD[robot.command]
    if factor:
        prior, scale = 1.0, _FACTOR_STD[robot.command][kind]
        lower, upper = 0.1, 10.0
    elif kind == "offset":
        scale, lower, upper = 0.01, -0.05, 0.05
    else:  # added to the nominal value; what is left must not be negative
        scale, lower = {
            "friction": (0.02 * typical("effort_limit_nm"), removable("friction_nm")),
            "damping": (max(0.2 * typical("kd_nm_s_rad"), 0.2), removable("damping_nm_s_rad")),
            # a rotor has some inertia
            "armature": (typical("armature_kg_m2"), removable("armature_kg_m2", 0.9)),
            "spring": (0.05 * typical("kp_nm_rad"), 0.0),
        }[kind]
        upper = 20.0 * scale
    return Parameter(
        name=f"{kind} {group}",
        kind=kind,
        joints=joints,
        prior=prior,
        scale=scale,
        lower=lower,
        upper=upper,
        factor=factor,
        unit=_UNITS.get(kind, ""),
    )


def _floor(robot: RobotSpec) -> list[Parameter]:
    """Friction and softness of the floor; nothing for a robot that stands on none."""
    if not robot.floating_base:
        return []
    return [
        Parameter(
            name="floor friction",
            kind="floor",
            axis=0,
            prior=FLOOR_FRICTION,
            scale=0.3,
            lower=0.2,
            upper=3.0,
            factor=True,
        ),
        Parameter(
            name="floor softness",
            kind="floor",
            axis=1,
            prior=FLOOR_SOFTNESS_S,
            scale=0.5,
            lower=2.0 * robot.physics_dt_s,  # a contact below two steps is not stable
            upper=0.2,
            factor=True,
            unit="s",
        ),
    ]


def _payload(robot: RobotSpec) -> list[Parameter]:
    body = payload_body(robot)
    mass = Parameter(
        name=f"payload {body}", kind="payload", scale=1.0, lower=0.0, upper=20.0, unit="kg"
    )
    centre = [
        Parameter(
            name=f"payload {body} {'xyz'[axis]}",
            kind="payload",
            axis=axis,
            scale=0.1,
            lower=-0.3,
            upper=0.3,
            unit="m",
        )
        for axis in range(3)
    ]
    return [mass, *centre]


def payload_body(robot: RobotSpec) -> str:
    """Body that carries a payload."""
    return end_body(robot)


def to_gap(
    robot: RobotSpec, parameters: Sequence[Parameter], values: Float, *, name: str = "sysid"
) -> Gap:
    """The gap that parameters (P,) describe; what is at its prior is left out."""
    tables: dict[str, dict[str, float]] = {}
    centre = [0.0, 0.0, 0.0]
    mass = delay_s = 0.0
    floor: list[float | None] = [None, None]
    for parameter, value in zip(parameters, values, strict=True):
        number = float(value)
        if parameter.kind == "delay":
            delay_s = number
        elif parameter.kind == "payload" and parameter.axis < 0:
            mass = number
        elif parameter.kind == "payload":
            centre[parameter.axis] = number
        elif parameter.kind == "floor":
            floor[parameter.axis] = None if number == parameter.prior else number
        elif number != parameter.prior:
            table = tables.setdefault(_TABLES[parameter.kind], {})
            table.update(dict.fromkeys(parameter.joints, number))
    body = payload_body(robot)
    joints: Mapping[str, dict[str, float]] = tables
    return Gap(
        name=name,
        delay_s=delay_s,
        floor_friction=floor[0],
        floor_softness_s=floor[1],
        payload_kg={body: mass} if mass > 0.0 else {},
        payload_com_m={body: (centre[0], centre[1], centre[2])} if mass > 0.0 else {},
        **joints,
    )
