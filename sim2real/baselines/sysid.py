"""System identification: the parameters with which the simulator best explains the logs.

Windows of the log start at logged states and play the logged set-points; what the simulator then
gets wrong, joints and base, positions and velocities, is minimised over motor strength, friction,
inertia, payload and delay by regularised robust least squares (:mod:`.least_squares`). What the
data do not tell stays at its nominal value and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.baselines.least_squares import Local, Problem, costs, improve, linearise, profile
from sim2real.baselines.parameters import (
    Detail,
    Parameter,
    list_parameters,
    payload_body,
    to_gap,
)
from sim2real.baselines.windows import Windows, signals
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import hold_out
from sim2real.replay.log import Log
from sim2real.replay.open_loop import HORIZONS_S, Method, ReplayResult, measure
from sim2real.sim.gaps import Gap
from sim2real.sim.parameters import Variants

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole work that is done."""

_DEFAULT_KINDS = {
    "setpoint": ("strength", "kd", "friction", "damping", "armature", "payload", "delay"),
    "position": (
        *("strength", "kd", "friction", "damping", "armature"),
        *("offset", "payload", "delay"),
    ),
}
_LEVELS: tuple[Detail, ...] = ("group", "joint")
_SKIPPED_S = 0.1  # at the start of an episode, where what is still in the delay is not known
_LEAST_WINDOWS = 12
_DELAYS_S = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
_START_PAYLOAD = 0.2
_STEPS = 4
_SLOW = 0.95
_WIDER = 4.0
_SIGNIFICANT = 2.0


@dataclass(frozen=True, kw_only=True)
class SysIdConfig:
    """How parameters are identified.

    Attributes:
        parameters: kinds out of :data:`sim2real.baselines.parameters.KINDS`; none for all that
            make sense for the robot.
        detail: which joints share parameters, see
            :func:`sim2real.baselines.parameters.joint_groups`; None to choose by the held-out
            windows.
        window_s: length of a window, s.
        windows: most windows, spread over the log.
        iterations: Jacobians at each level of detail, each good for a few steps.
        identified: a parameter whose standard deviation stays above this share of its prior's is
            not identifiable.
        validation: share of the data held out.
        seed: of the split.
    """

    parameters: tuple[str, ...] = ()
    detail: Detail | None = None
    window_s: float = 0.25
    windows: int = 64
    iterations: int = 3
    identified: float = 0.5
    validation: float = 0.2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One identified parameter.

    Attributes:
        name, unit: what it is.
        prior, prior_std: nominal value and how far from it was expected.
        value, std: estimate and its standard deviation; ``prior_std`` where nothing was learned.
        state: ``identified``; ``with others`` where it is wide by itself, but together with others
            explains something; ``prior`` where the data do not tell it and it stays nominal.
        at_bound: True where the estimate sits on a physical bound.
    """

    name: str
    unit: str
    prior: float
    prior_std: float
    value: float
    std: float
    state: Literal["identified", "with others", "prior"]
    at_bound: bool


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
        held_out: replay of the held-out data: ``open_loop`` and ``sysid``.
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
    levels: tuple[Detail, ...] = (config.detail,) if config.detail else _LEVELS
    if not robot.floating_base:
        levels = ("joint",)
    list_parameters(robot, kinds, levels[0])
    Log.of(episodes, robot)  # all of them are checked before they are cut
    learn, held = hold_out(episodes, config.validation, config.seed)
    window_s = config.window_s
    fitted, judged = (_windows(part, robot, window_s, config) for part in (learn, held))
    body = (payload_body(robot),) if "payload" in kinds else ()
    rate_hz = episodes[0].rate_hz
    found: list[_Fit] = []
    with Variants(robot, rate_hz=rate_hz, payload_bodies=body) as variants:
        for i, detail in enumerate(levels):

            def part(share: float, done: int = i, what: str = detail) -> None:
                if progress:
                    progress(f"one value a {what}", (done + share) / len(levels))

            fit = _Fit(robot, list_parameters(robot, kinds, detail), variants, fitted, config)
            fit.run(found[-1] if found else None, part)
            found.append(fit)
        scores = [fit.score(judged) for fit in found]
    best = int(np.argmin(scores))
    fit = found[best]
    gap = fit.gap()
    return gap, SysIdReport(
        estimates=fit.estimates(),
        detail=levels[best],
        condition=fit.condition,
        windows=len(fitted.targets_rad),
        window_s=window_s,
        held_out=_replay(held, robot, gap, window_s),
    )


def _check(config: SysIdConfig) -> None:
    wrong = [name for name in ("windows", "iterations") if getattr(config, name) < 1]
    wrong += [
        name for name in ("identified", "validation") if not 0.0 < getattr(config, name) < 1.0
    ]
    if not 0.0 < config.window_s <= 10.0:
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
    if len(rows) * config.validation < _LEAST_WINDOWS * config.validation**2:
        need = _LEAST_WINDOWS * window_s / config.validation
        have = len(log.first) / log.rate_hz
        raise InputError(
            f"expected at least {need:.0f} s of motion to identify {robot.name} from, got windows "
            f"of only {have:.1f} s in a part of it; record more"
        )
    if len(rows) > config.windows:
        rows = rows[np.linspace(0, len(rows) - 1, config.windows).round().astype(int)]
    return Windows.of(log, rows, ticks)


def _replay(held: Sequence[Episode], robot: RobotSpec, gap: Gap, window_s: float) -> ReplayResult:
    longest = max(len(e) - 1 for e in held) / held[0].rate_hz
    horizons = [h for h in HORIZONS_S if h <= longest] or [min(window_s, longest)]
    methods = [Method(name="open_loop"), Method(name="sysid", simulators=(gap,))]
    return measure(held, robot, methods, horizons_s=horizons, window_every_s=min(horizons))


class _Fit:
    """Parameters of one level of detail, fitted to windows."""

    def __init__(
        self,
        robot: RobotSpec,
        parameters: Sequence[Parameter],
        variants: Variants,
        windows: Windows,
        config: SysIdConfig,
    ) -> None:
        self.robot, self.parameters, self.variants = robot, tuple(parameters), variants
        self.config = config
        self.problem = self._problem(windows)
        self.z = np.zeros(len(self.parameters))
        self.active = np.ones(len(self.parameters), dtype=bool)
        self.std = np.ones(len(self.parameters))
        self.condition = 1.0

    def _problem(self, windows: Windows) -> Problem:
        floor, kind = signals(self.robot)
        return Problem(
            residuals=lambda z: windows.errors(self.variants, [self._gap(row) for row in z]),
            lower=np.array([p.standard(p.lower) for p in self.parameters]),
            upper=np.array([p.standard(p.upper) for p in self.parameters]),
            floor=floor,
            kind=kind,
        )

    def _gap(self, z: Float) -> Gap:
        values = [p.value(float(x)) for p, x in zip(self.parameters, z, strict=True)]
        return to_gap(self.robot, self.parameters, np.array(values))

    def gap(self) -> Gap:
        """What was found."""
        return self._gap(self.z)

    def run(self, coarser: _Fit | None, progress: Callable[[float], None]) -> None:
        """Fit, from the result of a coarser level if there is one."""
        rounds = self.config.iterations + 1
        everything = np.ones_like(self.active)
        local = self._start(coarser)
        strict = self.problem.outlier
        for i in range(self.config.iterations):
            if i:
                local = linearise(self.problem, local.z, everything)
            # Far from the solution everything looks like an outlier.
            wide = (
                strict
                if coarser is not None
                else strict * _WIDER ** (self.config.iterations - 1 - i)
            )
            self.problem = replace(self.problem, outlier=wide)
            local = self._descend(local, everything)
            progress((i + 1) / rounds)
        self._drop(local)
        local = self._descend(local, self._free(), self._settled(local.z))
        local = self._descend(linearise(self.problem, local.z, self.active), self._free())
        progress(1.0)
        self.z = local.z
        self.std = local.posterior_std(self.active)
        self.condition = local.condition(self.active)

    def _descend(
        self, local: Local, active: NDArray[np.bool_], settled: Float | None = None
    ) -> Local:
        """Steps along one Jacobian and its updates, which cost little, until they gain little."""
        for _ in range(_STEPS):
            local, ratio = improve(self.problem, local, active, settled)
            settled = None
            if ratio > _SLOW:
                break
        return local

    def _start(self, coarser: _Fit | None) -> Local:
        for i, parameter in enumerate(self.parameters):
            if coarser is not None:
                self.z[i] = coarser.at(parameter)
            elif parameter.name.startswith("payload") and parameter.axis < 0:
                self.z[i] = _START_PAYLOAD  # without any mass its place would have no effect
        everything, delay = np.ones_like(self.active), self._delay()
        local = linearise(self.problem, self.z, everything)
        if coarser is not None or delay is None:
            return local
        candidates = np.array([self.parameters[delay].standard(d) for d in _DELAYS_S])
        self.z[delay] = candidates[profile(self.problem, local, delay, candidates)]
        return linearise(self.problem, self.z, everything)

    def at(self, finer: Parameter) -> float:
        """This fit's value of a parameter of fewer joints."""
        for parameter, z in zip(self.parameters, self.z, strict=True):
            same = parameter.kind == finer.kind and parameter.axis == finer.axis
            if same and set(finer.joints) <= set(parameter.joints):
                return float(z)
        return 0.0

    def _delay(self) -> int | None:
        return next((i for i, p in enumerate(self.parameters) if p.kind == "delay"), None)

    def _drop(self, local: Local) -> None:
        """Give up what the data do not tell, the worst first: others may become clear by it.

        A parameter far from its prior stays, however wide its own interval: together with others
        it explains something.
        """
        while self.active.any():
            std = np.where(self.active, local.posterior_std(self.active), 0.0)
            std[np.abs(local.z) > _SIGNIFICANT * std] = 0.0
            worst = int(np.argmax(std))
            if std[worst] <= self.config.identified:
                return
            self.active[worst] = False

    def _settled(self, z: Float) -> Float:
        """``z`` with priors for what was given up and a delay of whole steps."""
        goal = np.where(self.active, z, 0.0)
        delay = self._delay()
        if delay is not None:
            step = self.robot.physics_dt_s
            parameter = self.parameters[delay]
            whole = round(parameter.value(float(goal[delay])) / step) * step
            goal[delay] = parameter.standard(whole)
        return goal

    def _free(self) -> NDArray[np.bool_]:
        free = self.active.copy()
        delay = self._delay()
        if delay is not None:
            free[delay] = False
        return free

    def score(self, windows: Windows) -> float:
        """Cost of the result on other windows, without the prior, each signal in its noise."""
        problem = self._problem(windows)
        points = np.stack([np.zeros_like(self.z), self.z])
        errors = problem.residuals(points)
        noise = problem.noise(errors[0])
        return float(costs(problem, errors, np.zeros_like(points), noise)[1])

    def estimates(self) -> tuple[Estimate, ...]:
        """The parameters with their uncertainty."""
        out = []
        for i, parameter in enumerate(self.parameters):
            z, std, active = float(self.z[i]), float(self.std[i]), bool(self.active[i])
            value = parameter.value(z)
            clear = std <= self.config.identified
            out.append(
                Estimate(
                    name=parameter.name,
                    unit=parameter.unit,
                    prior=parameter.prior,
                    prior_std=parameter.spread(parameter.prior, 1.0),
                    value=value,
                    std=parameter.spread(value, std),
                    state="prior" if not active else "identified" if clear else "with others",
                    at_bound=active and not self._inside(i),
                )
            )
        return tuple(out)

    def _inside(self, i: int) -> bool:
        return bool(self.problem.lower[i] < self.z[i] < self.problem.upper[i])
