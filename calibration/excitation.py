"""Motion that tells a robot's dynamics: Fourier series within limits, from rest to rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration.dynamics import RigidBody
from calibration.errors import CalibrationError
from calibration.files import read_json, write_text
from calibration.inertia import Bodies
from calibration.signals import Float

FORMAT = "realign-excitation-1"
_CHECK_HZ = 100.0
_SAMPLES = 80
_PRIOR = {"inertia": 0.3, "armature": 1.0}
_NOISE = 0.01
_STILL_RAD_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a robot may move, arrays (n,).

    Attributes:
        lower_rad, upper_rad: positions.
        velocity_rad_s, acceleration_rad_s2, effort_nm: largest of each.
    """

    lower_rad: Float
    upper_rad: Float
    velocity_rad_s: Float
    acceleration_rad_s2: Float
    effort_nm: Float


@dataclass(frozen=True, kw_only=True)
class ExcitationConfig:
    """How motion is chosen.

    Attributes:
        duration_s: length, s.
        fade_s: time in which it swells from rest and ebbs to rest, s.
        base_hz: lowest frequency.
        harmonics: number of frequencies.
        amplitude_rad: largest distance of a joint from its centre, rad.
        share: of the limits that is used.
        tries: motions that are compared.
        seed: of the random numbers.
    """

    duration_s: float = 20.0
    fade_s: float = 1.0
    base_hz: float = 0.1
    harmonics: int = 10
    amplitude_rad: float = 0.5
    share: float = 0.8
    tries: int = 60
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Excitation:
    """A motion: ``centre + window(t) * sum of sines and cosines``.

    Attributes:
        joint_names: names of the n joints.
        centre_rad: where it starts, ends and swings about, (n,).
        sine_rad, cosine_rad: amplitudes of each multiple of ``base_hz``, (n, L).
        base_hz, duration_s, fade_s: see :class:`ExcitationConfig`.
    """

    joint_names: tuple[str, ...]
    centre_rad: Float
    sine_rad: Float
    cosine_rad: Float
    base_hz: float
    duration_s: float
    fade_s: float

    def at(self, time_s: Float) -> tuple[Float, Float, Float]:
        """Positions, velocities and accelerations at times (T,), each (T, n)."""
        rate = 2 * np.pi * self.base_hz * np.arange(1, self.sine_rad.shape[1] + 1)
        phase = np.outer(np.clip(time_s, 0.0, self.duration_s), rate)
        sine, cosine = np.sin(phase), np.cos(phase)
        wave = sine @ self.sine_rad.T + cosine @ self.cosine_rad.T
        speed = (cosine * rate) @ self.sine_rad.T - (sine * rate) @ self.cosine_rad.T
        bend = -(sine * rate**2) @ self.sine_rad.T - (cosine * rate**2) @ self.cosine_rad.T
        w, dw, ddw = (x[:, None] for x in self._window(time_s))
        return (
            self.centre_rad + w * wave,
            dw * wave + w * speed,
            ddw * wave + 2 * dw * speed + w * bend,
        )

    def _window(self, time_s: Float) -> tuple[Float, Float, Float]:
        """A smooth step up and down, and its derivatives, (T,)."""
        left = time_s <= self.duration_s / 2
        x = np.clip(np.where(left, time_s, self.duration_s - time_s) / self.fade_s, 0.0, 1.0)
        sign = np.where(left, 1.0, -1.0) / self.fade_s
        return (
            x**3 * (10 - 15 * x + 6 * x**2),
            sign * 30 * x**2 * (1 - x) ** 2,
            60 * x * (1 - x) * (1 - 2 * x) / self.fade_s**2,
        )

    def save(self, path: Path, robot: str, details: Mapping[str, float]) -> None:
        """Write it as JSON; its folder is made.

        Raises:
            CalibrationError: the file cannot be written.
        """
        content = {
            "format": FORMAT,
            "robot": robot,
            "joint_names": self.joint_names,
            "duration_s": self.duration_s,
            "fade_s": self.fade_s,
            "base_hz": self.base_hz,
            "centre_rad": self.centre_rad.tolist(),
            "sine_rad": self.sine_rad.tolist(),
            "cosine_rad": self.cosine_rad.tolist(),
            "details": dict(details),
        }
        write_text(path, json.dumps(content, indent=1) + "\n", "the motion")


def read_excitation(path: Path, robot: str) -> Excitation:
    """Read what :meth:`Excitation.save` wrote.

    Raises:
        CalibrationError: it is damaged, or of another robot.
    """
    content = read_json(path, "a motion of `realign calibrate excite`")
    if content.get("format") != FORMAT or content.get("robot") != robot:
        made_for = content.get("robot") if content.get("format") == FORMAT else None
        got = f"one of {made_for}" if isinstance(made_for, str) else "another kind of file"
        raise CalibrationError(
            f"expected a motion of {robot} in format {FORMAT}, got {path}, which is {got}; make "
            "one with `realign calibrate excite`"
        )
    try:
        motion = Excitation(
            joint_names=tuple(map(str, content["joint_names"])),
            centre_rad=np.array(content["centre_rad"], float),
            sine_rad=np.array(content["sine_rad"], float),
            cosine_rad=np.array(content["cosine_rad"], float),
            base_hz=float(content["base_hz"]),
            duration_s=float(content["duration_s"]),
            fade_s=float(content["fade_s"]),
        )
        n = len(motion.joint_names)
        shapes = motion.centre_rad.shape, motion.sine_rad.shape, motion.cosine_rad.shape
        good = (
            shapes == ((n,), (n, shapes[1][-1]), shapes[1])
            and np.isfinite(
                np.concatenate(
                    [motion.centre_rad, motion.sine_rad.ravel(), motion.cosine_rad.ravel()]
                )
            ).all()
        )
        good = good and 0.0 < 2 * motion.fade_s <= motion.duration_s < np.inf
    except (KeyError, TypeError, ValueError, IndexError):
        good = False
    if not good:
        raise CalibrationError(
            f"expected a whole motion, but {path} is damaged; make it again with "
            "`realign calibrate excite`"
        )
    return motion


def check_limits(motion: Excitation, limits: Limits) -> None:
    """Make sure that a motion stays within a robot's limits.

    Raises:
        CalibrationError: it does not.
    """
    times = np.linspace(0, motion.duration_s, int(motion.duration_s * _CHECK_HZ) + 1)
    q, v, a = motion.at(times)
    for values, low, high, what in (
        (q, limits.lower_rad, limits.upper_rad, "position"),
        (v, -limits.velocity_rad_s, limits.velocity_rad_s, "velocity"),
        (a, -limits.acceleration_rad_s2, limits.acceleration_rad_s2, "acceleration"),
    ):
        bad = np.flatnonzero(((values < low) | (values > high)).any(axis=0))
        if len(bad):
            raise CalibrationError(
                f"expected a motion within the limits, but the {what} of "
                f"{motion.joint_names[bad[0]]} is outside; make it again with "
                "`realign calibrate excite`"
            )


def excite(
    body: RigidBody,
    limits: Limits,
    centre_rad: Float,
    config: ExcitationConfig,
    progress: Callable[[float], None] | None = None,
) -> tuple[Excitation, dict[str, float]]:
    """The motion that tells most, of many random ones and small changes of the best.

    What a motion tells is the information that its torques bring on inertia, armature and
    friction, over what is expected without it; the log-determinant of that is made large.

    Args:
        body: the robot's model.
        limits: of its joints.
        centre_rad: pose to start and end at, (n,).
        config: how.
        progress: called with the share of the work that is done.

    Returns:
        The motion, and what it tells: ``log_det``, ``condition`` (of what is told at all) and
        ``told`` and ``unknowns``, numbers of combinations.

    Raises:
        CalibrationError: settings out of range, or a centre at its limits.
    """
    _check(config, limits, centre_rad, body.joint_names)
    rng = np.random.default_rng(config.seed)
    scale = Bodies(body.parameters).jacobian(np.zeros_like(body.parameters)) * _PRIOR["inertia"]
    shape = (2, len(centre_rad), config.harmonics)
    falling = 1.0 / np.arange(1, config.harmonics + 1)
    best: tuple[float, Float, Excitation, Float] | None = None
    for turn in range(config.tries):
        if best is None or turn < config.tries // 3:
            waves = rng.normal(size=shape) * falling
        else:
            waves = best[1] + 0.3 * rng.normal(size=shape) * falling * np.abs(best[1]).max()
        motion = _within(waves, body, limits, centre_rad, config)
        told = _information(motion, body, limits, scale)
        value = float(np.log1p(told).sum())
        if best is None or value > best[0]:
            best = value, waves, motion, told
        if progress:
            progress((turn + 1) / config.tries)
    assert best is not None
    value, _, motion, told = best
    some = told[told > 1.0]
    return motion, {
        "log_det": value,
        "condition": float(np.sqrt(some.max() / some.min())) if len(some) else float("inf"),
        "told": float(len(some)),
        "unknowns": float(len(told)),
    }


def _check(
    config: ExcitationConfig, limits: Limits, centre_rad: Float, names: tuple[str, ...]
) -> None:
    good = (
        0 < config.fade_s <= config.duration_s / 2
        and 1 / config.duration_s <= config.base_hz * (1 + 1e-9)
        and 1 <= config.harmonics <= 50
        and config.amplitude_rad > 0
        and 0 < config.share < 1
        and config.tries >= 1
    )
    if not good:
        raise CalibrationError(
            f"expected a duration of at least one period ({1 / config.base_hz:g} s) and twice the "
            f"fade ({config.fade_s:g} s), 1 to 50 harmonics, an amplitude above 0 and a share of "
            f"the limits below 1, got {config.duration_s:g} s, {config.harmonics}, "
            f"{config.amplitude_rad:g} rad, {config.share:g}; correct them"
        )
    room = np.minimum(limits.upper_rad - centre_rad, centre_rad - limits.lower_rad)
    tight = [name for name, gap in zip(names, room, strict=True) if gap < 0.02]
    if tight:
        raise CalibrationError(
            f"expected a centre away from the limits, but {', '.join(tight)} is at one; "
            "choose another pose"
        )


def _within(
    waves: Float, body: RigidBody, limits: Limits, centre_rad: Float, config: ExcitationConfig
) -> Excitation:
    """The motion of these shape, as large as the limits let it be."""
    motion = Excitation(
        joint_names=body.joint_names,
        centre_rad=centre_rad,
        sine_rad=waves[0],
        cosine_rad=waves[1],
        base_hz=config.base_hz,
        duration_s=config.duration_s,
        fade_s=config.fade_s,
    )
    times = np.linspace(0, config.duration_s, int(config.duration_s * _CHECK_HZ) + 1)
    q, v, a = motion.at(times)
    swing = q - centre_rad
    up, down = swing.max(axis=0), -swing.min(axis=0)
    rooms = [
        config.amplitude_rad / np.abs(swing).max(axis=0),
        (limits.upper_rad - centre_rad) * config.share / np.maximum(up, 1e-9),
        (centre_rad - limits.lower_rad) * config.share / np.maximum(down, 1e-9),
        limits.velocity_rad_s * config.share / np.abs(v).max(axis=0),
        limits.acceleration_rad_s2 * config.share / np.abs(a).max(axis=0),
    ]
    factor = np.min(rooms, axis=0)[:, None]
    for _ in range(20):
        motion = replace(motion, sine_rad=waves[0] * factor, cosine_rad=waves[1] * factor)
        torque = body.torque(*motion.at(times[::10]))
        share = float((np.abs(torque) / limits.effort_nm).max())
        held = float((np.abs(body.gravity(centre_rad[None])) / limits.effort_nm).max())
        if share <= max(config.share, held + 0.05):
            break
        factor = 0.85 * factor
    return motion


def _information(motion: Excitation, body: RigidBody, limits: Limits, scale: Float) -> Float:
    """Eigenvalues of the information, in units of the prior's, ascending."""
    n = len(motion.joint_names)
    q, v, a = motion.at(np.linspace(0, motion.duration_s, _SAMPLES))
    rows = body.regressor(q, v, a) @ scale
    total = np.zeros((rows.shape[2] + 3 * n,) * 2)
    for j in range(n):
        columns = np.zeros((len(q), len(total)))
        columns[:, : rows.shape[2]] = rows[:, j]
        own = rows.shape[2] + 3 * j
        columns[:, own] = np.tanh(v[:, j] / _STILL_RAD_S) * 0.02 * limits.effort_nm[j]
        columns[:, own + 1] = v[:, j] * 0.02 * limits.effort_nm[j]
        columns[:, own + 2] = a[:, j] * 0.1 * _PRIOR["armature"]
        columns /= _NOISE * limits.effort_nm[j]
        total += columns.T @ columns
    return np.maximum(np.linalg.eigvalsh(total), 0.0)
