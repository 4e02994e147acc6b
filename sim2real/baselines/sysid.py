"""System identification: the parameters with which the simulator best explains the logs.

Windows of the log start at logged states and play the logged set-points; what the simulator then
gets wrong, joints and base, positions and velocities, is minimised over motor strength, friction,
inertia, payload and delay by regularised robust least squares (:mod:`.least_squares`). What the
data do not tell stays at its nominal value and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.baselines.parameter_fit import Estimate, ParameterFit, SysIdConfig
from sim2real.baselines.parameters import Detail, list_parameters, payload_body
from sim2real.baselines.windows import Windows
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import hold_out
from sim2real.replay.log import Log
from sim2real.replay.open_loop import HORIZONS_S, Method, ReplayResult, measure
from sim2real.sim.gaps import Gap
from sim2real.sim.parameters import Variants

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole work that is done."""

_DEFAULT_KINDS = {
    # Damping is left to kd, which does the same.
    "setpoint": (
        *("strength", "kd", "limit", "friction", "armature", "spring", "offset"),
        *("payload", "floor", "delay"),
    ),
    "position": (
        *("strength", "kd", "friction", "damping", "armature"),
        *("offset", "payload", "delay"),
    ),
}
_LEVELS: tuple[Detail, ...] = ("robot", "group", "joint")
_SKIPPED_S = 0.1  # at the start of an episode, where what is still in the delay is not known
_LEAST_WINDOWS = 12
_WINDOW_S = {"setpoint": 0.12, "position": 0.25}


@dataclass(frozen=True, kw_only=True)
class SysIdReport:
    """What was found and how well it explains data that were held out.

    Attributes:
        estimates: the parameters.
        detail: level of detail that was kept.
        condition: condition number of the data's information on the identified parameters, in
            units of their priors.
        windows: windows that were fitted.
        window_s: their length, s.
        held_out: replay of the held-out data: ``open_loop`` and ``sysid`` as it was before these
            data were used as well.
    """

    estimates: tuple[Estimate, ...]
    detail: Detail
    condition: float
    windows: int
    window_s: float
    held_out: ReplayResult

    @property
    def unidentified(self) -> tuple[str, ...]:
        """Names of the parameters that stay at their prior."""
        return tuple(e.name for e in self.estimates if e.state == "prior")


def identify(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    *,
    config: SysIdConfig | None = None,
    progress: Progress | None = None,
) -> tuple[Gap, SysIdReport]:
    """Identify a robot's parameters from logs.

    Args:
        episodes: logs of ``robot``, all at one rate.
        robot: the robot.
        config: see :class:`SysIdConfig`.
        progress: called as the work goes on.

    Returns:
        The gap between the nominal and the identified robot, and a report; the same input gives
        the same result on one machine.

    Raises:
        InputError: episodes of another robot, damaged or too short; unknown parameters.
    """
    config = config or SysIdConfig()
    _check(config)
    kinds = config.parameters or _DEFAULT_KINDS[robot.command]
    levels = _levels(robot, kinds, config)
    Log.of(episodes, robot)  # all of them are checked before they are cut
    learn, held = hold_out(episodes, config.validation, config.seed)
    window_s = config.window_s or _WINDOW_S[robot.command]
    fitted = _windows(learn, robot, window_s, config)
    if len(fitted) < _LEAST_WINDOWS or len(_windows(held, robot, window_s, config)) < 1:
        need = _LEAST_WINDOWS * window_s / (1.0 - config.validation) + 4.0 * _SKIPPED_S
        have = sum((len(e) - 1) / e.rate_hz for e in episodes)
        raise InputError(
            f"expected at least {need:.1f} s of motion of {robot.name} to identify it from, in "
            f"episodes well above {window_s + _SKIPPED_S:g} s, got {have:.1f} s; record more"
        )
    body = (payload_body(robot),) if "payload" in kinds else ()

    def fit(
        detail: Detail, windows: Windows, coarser: ParameterFit | None, done: int
    ) -> ParameterFit:
        parameters = list_parameters(robot, kinds, detail)
        new = ParameterFit(robot, parameters, variants, windows, config)
        new.run(coarser, lambda share: report(detail, (done + share) / turns))
        return new

    def report(detail: str, share: float) -> None:
        if progress:
            progress(f"one value a {detail}", share)

    turns = len(levels) + (len(levels) > 1)
    found: list[ParameterFit] = []
    with Variants(robot, rate_hz=episodes[0].rate_hz, payload_bodies=body) as variants:
        for i, detail in enumerate(levels):
            coarser = found[-1] if i and levels[i - 1] != "robot" else None
            found.append(fit(detail, fitted, coarser, i))
        held_out = _replay(held, robot, [one.gap() for one in found], window_s)
        best = _best(held_out, robot)
        final = found[best]
        if len(levels) > 1:  # what was held out has done its part and may teach as well
            everything = _windows(episodes, robot, window_s, config)
            final = fit(levels[best], everything, found[best], len(levels))
    return final.gap(), SysIdReport(
        estimates=final.estimates(),
        detail=levels[best],
        condition=final.condition,
        windows=len(fitted),
        window_s=window_s,
        held_out=replace(
            held_out,
            errors={
                "open_loop": held_out.errors["open_loop"],
                "sysid": held_out.errors[f"level {best}"],
            },
        ),
    )


def _levels(robot: RobotSpec, kinds: Sequence[str], config: SysIdConfig) -> tuple[Detail, ...]:
    """Levels of detail to try, each with at least one parameter."""
    levels: tuple[Detail, ...] = (config.detail,) if config.detail else _LEVELS
    if not robot.floating_base:
        levels = ("joint",)
    kept = tuple(level for level in levels if list_parameters(robot, kinds, level))
    if not kept:
        raise InputError(
            f"expected parameters of {robot.name} as a whole for the detail robot, got only "
            f"{list(kinds)} of its joints; add payload, floor or delay, or use another detail"
        )
    return kept


def _check(config: SysIdConfig) -> None:
    wrong = [name for name in ("windows", "iterations") if getattr(config, name) < 1]
    wrong += [
        name for name in ("identified", "validation") if not 0.0 < getattr(config, name) < 1.0
    ]
    if config.window_s is not None and not 0.0 < config.window_s <= 10.0:
        wrong.append("window_s")
    if wrong:
        raise InputError(f"expected positive settings, got others for {wrong}; correct them")


def _windows(
    episodes: Sequence[Episode], robot: RobotSpec, window_s: float, config: SysIdConfig
) -> Windows:
    log = Log.of(episodes, robot)
    ticks = max(round(window_s * log.rate_hz), 1)
    # Windows of an arm overlap by half: each starts from a measured state with its own noise.
    rows = log.windows(ticks if robot.floating_base else max(ticks // 2, 1), ticks)
    rows = rows[rows - log.first[rows] >= _SKIPPED_S * log.rate_hz]
    if len(rows) > config.windows:
        rows = rows[np.linspace(0, len(rows) - 1, config.windows).round().astype(int)]
    return Windows.of(log, rows, ticks)


def _replay(
    held: Sequence[Episode], robot: RobotSpec, gaps: Sequence[Gap], window_s: float
) -> ReplayResult:
    """Errors of ``open_loop`` and of each gap, ``level 0``, ``level 1``, ..."""
    longest = max(len(e) - 1 for e in held) / held[0].rate_hz
    horizons = [h for h in HORIZONS_S if h <= longest] or [min(window_s, longest)]
    methods = [Method(name="open_loop")]
    methods += [Method(name=f"level {i}", simulators=(gap,)) for i, gap in enumerate(gaps)]
    return measure(held, robot, methods, horizons_s=horizons, window_every_s=min(horizons))


def _best(result: ReplayResult, robot: RobotSpec) -> int:
    """The level with the smallest error over open loop's, geometric mean over the horizons.

    Short windows alone would choose the most detail: what it gains in a tenth of a second may
    cost in a whole one.
    """
    name = "e_g_mpjpe_mm" if robot.floating_base else "qpos_rmse_rad"
    errors = np.array([getattr(metrics, name) for metrics in result.methods.values()])
    return int(np.argmin(np.log(errors[1:] + np.finfo(float).tiny).mean(axis=1)))
