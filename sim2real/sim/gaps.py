"""Named dynamics gaps: the ways in which a robot differs from its nominal model.

A gap changes motors (strength, friction, damping, armature), mass (a payload on a body) and timing
(actuator delay). ``hidden(seed)`` draws one at random, so that a delta-action model can be judged
on a difference that nobody tuned it for.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A difference between a robot and its nominal model; the default is no difference.

    Attributes:
        name: how it is called.
        strength: joint name pattern -> factor on motor gains and torque limit.
        friction_nm: joint name pattern -> added Coulomb friction, Nm.
        damping_nm_s_rad: joint name pattern -> added viscous friction, Nm s/rad.
        armature_kg_m2: joint name pattern -> added rotor inertia, kg m^2.
        payload_kg: body name -> added point mass, kg.
        delay_s: actuator delay, s.
    """

    name: str = "none"
    strength: dict[str, float] = field(default_factory=dict)
    friction_nm: dict[str, float] = field(default_factory=dict)
    damping_nm_s_rad: dict[str, float] = field(default_factory=dict)
    armature_kg_m2: dict[str, float] = field(default_factory=dict)
    payload_kg: dict[str, float] = field(default_factory=dict)
    delay_s: float = 0.0

    def per_joint(self, robot: RobotSpec, table: dict[str, float], *, factor: bool) -> Float:
        """Expand a pattern table to an array (n,); several matches multiply or add up."""
        out = np.ones(robot.n) if factor else np.zeros(robot.n)
        for pattern, value in table.items():
            for i, name in enumerate(robot.joint_names):
                if fnmatch.fnmatchcase(name, pattern):
                    out[i] = out[i] * value if factor else out[i] + value
        return out


_LEGS = ("*_hip_*", "*_knee_*", "*_ankle_*")


def _end_body(robot: RobotSpec) -> str:
    return "torso_link" if robot.floating_base else "panda_hand"


def _hidden(robot: RobotSpec, seed: int) -> Gap:
    rng = np.random.default_rng(seed)
    low, high = (0.8, 0.95) if robot.floating_base else (0.6, 0.9)
    scale = 0.3 if robot.floating_base else 2.0
    return Gap(
        name=f"hidden:{seed}",
        strength={j: float(rng.uniform(low, high)) for j in robot.joint_names},
        friction_nm={j: float(scale * rng.uniform(0.2, 1.0)) for j in robot.joint_names},
        damping_nm_s_rad={j: float(scale * rng.uniform(0.1, 0.5)) for j in robot.joint_names},
        payload_kg={_end_body(robot): float(rng.uniform(0.5, 2.0))},
        delay_s=float(rng.uniform(0.002, 0.015)),
    )


def make_gap(robot: RobotSpec, name: str) -> Gap:
    """Return the gap called ``name``.

    Args:
        robot: the robot that it is for.
        name: ``none``, ``legs_weak``, ``arm_weak``, ``payload``, ``sticky``, ``latency``, ``asap``
            (leg strength x0.8, ankles x0.72, friction, damping and 2 kg on the torso) or
            ``hidden:SEED``.

    Raises:
        InputError: unknown name, or a gap for another kind of robot.
    """
    if name.startswith("hidden"):
        _, _, seed = name.partition(":")
        if seed and not seed.isdigit():
            raise InputError(f"expected a gap like hidden:7, got {name!r}; the seed is a number")
        return _hidden(robot, int(seed or 0))
    gaps = {
        "none": Gap(),
        "payload": Gap(name="payload", payload_kg={_end_body(robot): 2.0}),
        "sticky": Gap(
            name="sticky",
            friction_nm={"*": 0.6 if robot.floating_base else 2.0},
            damping_nm_s_rad={"*": 0.3 if robot.floating_base else 2.0},
        ),
        "latency": Gap(name="latency", delay_s=0.02),
    }
    if robot.floating_base:
        gaps["legs_weak"] = Gap(name="legs_weak", strength=dict.fromkeys(_LEGS, 0.8))
        gaps["asap"] = Gap(
            name="asap",
            strength={**dict.fromkeys(_LEGS[:2], 0.8), "*_ankle_*": 0.72},
            friction_nm={"*": 0.6},
            damping_nm_s_rad={"*": 0.3},
            payload_kg={"torso_link": 2.0},
        )
    else:
        gaps["arm_weak"] = Gap(name="arm_weak", strength={"*": 0.7})
    if name not in gaps:
        raise InputError(
            f"expected a gap for {robot.name} out of {sorted(gaps)} or hidden:SEED, got {name!r}"
        )
    return gaps[name]
