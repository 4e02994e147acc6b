"""What the motor terms say about each joint: a weak motor, friction, a spring, a delay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import RobotSpec
from sim2real.delta.fit_motor import MotorFit
from sim2real.delta.motor import TERMS

_SURE = 2.0  # standard deviations
# Smallest parameter worth a word: share, share of kd, Nm as share of the limit, ms, share, share.
_LEAST = {
    "strength": 0.03,
    "damping": 0.1,
    "friction": 0.004,
    "lag": 1.0,
    "inertia": 0.5,
    "bias": 0.004,
    "spring": 0.02,
}
_WORDS = {
    "strength": ("motor {:.0f} % stronger than in the simulator", "motor {:.0f} % weaker"),
    "damping": ("{:.2g} Nm s/rad more viscous friction", "{:.2g} Nm s/rad less viscous friction"),
    "friction": ("{:.2g} Nm more dry friction", "{:.2g} Nm less dry friction"),
    "lag": ("commands arrive {:.1f} ms later", "commands arrive {:.1f} ms earlier"),
    "inertia": ("{:.2g} kg m^2 more rotor inertia", "{:.2g} kg m^2 less rotor inertia"),
    "bias": ("a constant torque of {:.2g} Nm", "a constant torque of -{:.2g} Nm"),
    "spring": (
        "a spring of {:.2g} Nm/rad towards the default pose",
        "a spring of {:.2g} Nm/rad away from the default pose",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One term of one joint that stands out of its uncertainty.

    Attributes:
        joint: joint name.
        term: name of the term.
        value: parameter in ``unit``.
        deviation: its standard deviation.
        unit: unit, empty for a share.
        text: the same in words.
    """

    joint: str
    term: str
    value: float
    deviation: float
    unit: str
    text: str


def findings(robot: RobotSpec, fit: MotorFit) -> list[Finding]:
    """Terms that are larger than twice their deviation and large enough to matter."""
    ones = np.ones(robot.n)
    size = {
        "strength": ones,
        "damping": robot.kd_nm_s_rad,
        "friction": robot.effort_limit_nm,
        "lag": ones,
        "inertia": np.maximum(robot.array("armature_kg_m2"), 0.01),
        "bias": robot.effort_limit_nm,
        "spring": robot.kp_nm_rad,
    }
    out = []
    for i, joint in enumerate(robot.joint_names):
        for k, term in enumerate(TERMS):
            value, deviation = float(fit.parameters[i, k]), float(fit.deviation[i, k])
            least = _LEAST[term.name] * float(size[term.name][i])
            if abs(value) < max(least, _SURE * deviation):
                continue
            shown = 100.0 * abs(value) if term.name == "strength" else abs(value)
            words = _WORDS[term.name][value < 0.0]
            out.append(
                Finding(
                    joint=joint,
                    term=term.name,
                    value=value,
                    deviation=deviation,
                    unit=term.unit,
                    text=words.format(shown),
                )
            )
    return out


def finding_rows(robot: RobotSpec, fit: MotorFit) -> list[tuple[str, str]]:
    """One row for each joint with a finding: joint, and what is the matter with it."""
    by_joint: dict[str, list[str]] = {}
    for found in findings(robot, fit):
        by_joint.setdefault(found.joint, []).append(found.text)
    return [(joint.removesuffix("_joint"), "; ".join(texts)) for joint, texts in by_joint.items()]
