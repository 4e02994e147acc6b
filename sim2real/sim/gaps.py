"""Dynamics gaps: the ways in which a robot differs from its nominal model.

A gap changes motors (strength, gains, torque limit, friction, damping, armature, springs, encoder
offsets), masses, the floor and timing (actuator delay). Some have names; ``hidden:SEED`` draws one
at random, so that a delta-action model can be judged on a difference that nobody tuned it for; and
what system identification finds is a gap too, stored as JSON.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from policies.actor.config import read_json
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.results import write_json


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A difference between a robot and its nominal model; the default is no difference.

    Keys of joint tables are joint name patterns (``*_ankle_*``); several matches multiply (factors)
    or add up.

    Attributes:
        name: how it is called.
        strength: factor on motor gains and torque limit.
        kp, kd: factors on one gain of the joint PD loop.
        torque_limit: factor on the torque limit alone.
        friction_nm: added Coulomb friction, Nm.
        damping_nm_s_rad: added viscous friction, Nm s/rad.
        armature_kg_m2: added rotor inertia, kg m^2.
        spring_nm_rad: stiffness that pulls the joint to its default position (cables), Nm/rad.
        offset_rad: error of the encoder's zero that the motor follows, rad: it settles this much
            above its set-point.
        mass: body name -> factor on mass and inertia.
        payload_kg: body name -> added mass, a small sphere, kg.
        payload_com_m: body name -> centre of the payload in the body's frame, (3,), m; its origin
            if not given.
        floor_friction: sliding friction between feet and floor; None for nominal.
        floor_softness_s: time constant of the contact with the floor, s; None for nominal.
        delay_s: actuator delay, s.
    """

    name: str = "none"
    strength: dict[str, float] = field(default_factory=dict)
    kp: dict[str, float] = field(default_factory=dict)
    kd: dict[str, float] = field(default_factory=dict)
    torque_limit: dict[str, float] = field(default_factory=dict)
    friction_nm: dict[str, float] = field(default_factory=dict)
    damping_nm_s_rad: dict[str, float] = field(default_factory=dict)
    armature_kg_m2: dict[str, float] = field(default_factory=dict)
    spring_nm_rad: dict[str, float] = field(default_factory=dict)
    offset_rad: dict[str, float] = field(default_factory=dict)
    mass: dict[str, float] = field(default_factory=dict)
    payload_kg: dict[str, float] = field(default_factory=dict)
    payload_com_m: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    floor_friction: float | None = None
    floor_softness_s: float | None = None
    delay_s: float = 0.0

    def per_joint(self, robot: RobotSpec, table: dict[str, float], *, factor: bool) -> Float:
        """Expand a pattern table to an array (n,); several matches multiply or add up.

        Raises:
            InputError: a pattern that fits no joint of the robot.
        """
        out = np.ones(robot.n) if factor else np.zeros(robot.n)
        for pattern, value in table.items():
            hit = [i for i, j in enumerate(robot.joint_names) if fnmatch.fnmatchcase(j, pattern)]
            if not hit:
                raise InputError(
                    f"gap {self.name}: expected names of joints of {robot.name}, got {pattern!r}, "
                    "which fits none; correct it or use the robot that it was made for"
                )
            out[hit] = out[hit] * value if factor else out[hit] + value
        return out

    def save(self, path: Path, robot: RobotSpec, **extra: Any) -> None:
        """Write the gap as JSON; ``extra`` (what it was found from) is stored beside it.

        Raises:
            InputError: the file cannot be written.
        """
        content = {
            "format": FORMAT,
            "robot": robot.name,
            "robot_fingerprint": robot.fingerprint,
            "gap": self.to_json(),
            **extra,
        }
        write_json(path, content)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is nominal is left out."""
        nominal = Gap(name="")
        return {k: v for k, v in asdict(self).items() if v != getattr(nominal, k)}

    @classmethod
    def from_json(cls, content: Any, what: str) -> Gap:
        """Read what :meth:`to_json` gave.

        Args:
            content: parsed JSON.
            what: its name in error texts.

        Raises:
            InputError: unknown keys, or values of another kind or not finite.
        """
        if not isinstance(content, dict):
            raise InputError(f"{what}: expected an object, got {content!r}; write the gap again")
        known = {f.name: f.type for f in fields(cls)}
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise InputError(f"{what}: expected keys out of {list(known)}, got {unknown}")
        bad = sorted(k for k, v in content.items() if not _valid(k, v))
        if bad:
            raise InputError(f"{what}: expected finite numbers by name in {bad}; correct them")
        coms = {k: tuple(v) for k, v in content.get("payload_com_m", {}).items()}
        return cls(**content | ({"payload_com_m": coms} if coms else {}))


def _valid(key: str, value: Any) -> bool:
    def number(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

    if key == "name":
        return isinstance(value, str)
    if key == "delay_s":
        return number(value) and 0.0 <= value <= MAX_DELAY_S
    if key.startswith("floor_"):
        return value is None or (number(value) and value > 0.0)
    if not isinstance(value, dict):
        return False
    if key == "payload_com_m":
        return all(
            isinstance(x, (list, tuple)) and len(x) == 3 and all(map(number, x))
            for x in value.values()
        )
    return all(map(number, value.values()))


def load_gap(path: Path, robot: RobotSpec) -> Gap:
    """Read a gap that :meth:`Gap.save` wrote (`realign sysid` makes such files).

    Raises:
        InputError: no such file, not a gap, or one of another robot.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"expected a gap file, but {path}: {error.strerror}; check it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected JSON, got {error}; make it again") from None
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: expected a gap of format {FORMAT}, got something else")
    if content.get("robot_fingerprint") != robot.fingerprint:
        raise InputError(
            f"{path}: expected a gap of {robot.name} ({robot.fingerprint}), got one of "
            f"{content.get('robot')} ({content.get('robot_fingerprint')}); "
            "identify this robot with its own gains"
        )
    return Gap.from_json(content.get("gap"), str(path))


FORMAT = "realign-gap-1"
MAX_DELAY_S = 0.2
PANDA_EFFORT_NM = 87.0

_LEGS = ("*_hip_*", "*_knee_*", "*_ankle_*")


def end_body(robot: RobotSpec) -> str:
    """Body that carries a payload."""
    if robot.floating_base:
        return "torso_link"
    arm, link, _ = robot.base_body.partition("_link0")
    return f"{arm}_hand" if link else "gripper_link"  # panda_hand, fr3_hand


def size_of_arm(robot: RobotSpec) -> float:
    """Strongest motor of an arm over that of a Panda: loads and frictions scale with it."""
    return float(robot.effort_limit_nm.max()) / PANDA_EFFORT_NM


def _hidden(robot: RobotSpec, seed: int) -> Gap:
    rng = np.random.default_rng(seed)
    low, high = (0.8, 0.95) if robot.floating_base else (0.6, 0.9)
    size = 1.0 if robot.floating_base else size_of_arm(robot)
    scale = 0.3 if robot.floating_base else 2.0 * size
    return Gap(
        name=f"hidden:{seed}",
        strength={j: float(rng.uniform(low, high)) for j in robot.joint_names},
        friction_nm={j: float(scale * rng.uniform(0.2, 1.0)) for j in robot.joint_names},
        damping_nm_s_rad={j: float(scale * rng.uniform(0.1, 0.5)) for j in robot.joint_names},
        payload_kg={end_body(robot): size * float(rng.uniform(0.5, 2.0))},
        delay_s=float(rng.uniform(0.002, 0.015)),
    )


def make_gap(robot: RobotSpec, name: str) -> Gap:
    """Return the gap called ``name``.

    Args:
        robot: the robot that it is for.
        name: ``none``, ``legs_weak``, ``arm_weak``, ``payload``, ``sticky``, ``latency``, ``asap``
            (leg strength x0.8, ankles x0.72, friction, damping and 2 kg on the torso), ``worn``
            (what no list of masses and motor strengths describes: left and right differ, encoders
            are off, cables pull, motors saturate early, the floor is soft), ``fragile`` (weak
            enough that some motions fall), ``hidden:SEED``, or the path of a JSON file.

    Raises:
        InputError: unknown name, or a gap for another kind of robot.
    """
    if name.endswith(".json"):
        return load_gap(Path(name), robot)
    if name.startswith("hidden"):
        _, _, seed = name.partition(":")
        if seed and not seed.isdigit():
            raise InputError(f"expected a gap like hidden:7, got {name!r}; the seed is a number")
        return _hidden(robot, int(seed or 0))
    size = 1.0 if robot.floating_base else size_of_arm(robot)
    gaps = {
        "none": Gap(),
        "payload": Gap(name="payload", payload_kg={end_body(robot): 2.0 * size}),
        "sticky": Gap(
            name="sticky",
            friction_nm={"*": 0.6 if robot.floating_base else 2.0 * size},
            damping_nm_s_rad={"*": 0.3 if robot.floating_base else 2.0 * size},
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
        gaps["fragile"] = Gap(
            name="fragile", strength={**dict.fromkeys(_LEGS[:2], 0.75), "*_ankle_*": 0.5}
        )
        gaps["worn"] = Gap(
            name="worn",
            strength={"left_hip_*": 0.85, "left_knee_*": 0.8, "right_knee_*": 0.9},
            kd={"*": 0.8},
            torque_limit=dict.fromkeys(_LEGS, 0.6),
            friction_nm={"*": 0.3},
            spring_nm_rad={"*_ankle_*": 6.0, "*_shoulder_*": 4.0, "waist_*": 20.0},
            offset_rad={"left_ankle_pitch_joint": 0.02, "right_knee_joint": -0.02},
            floor_friction=0.8,
            floor_softness_s=0.04,
        )
    else:
        gaps["worn"] = Gap(
            name="worn",
            strength={"*_joint2": 0.8, "*_joint4": 0.9},
            kd={"*": 0.8},
            torque_limit={"*": 0.6},
            friction_nm={"*": 1.0},
            spring_nm_rad={"*": 8.0},
            offset_rad={"*_joint4": 0.01},
        )
        gaps["arm_weak"] = Gap(name="arm_weak", strength={"*": 0.7})
    if name not in gaps:
        raise InputError(
            f"expected a gap for {robot.name} out of {sorted(gaps)} or hidden:SEED, got {name!r}"
        )
    return gaps[name]
