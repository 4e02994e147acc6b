"""Fit the parameters of one level of detail to windows of a log.

Levenberg-Marquardt steps along Jacobians by finite differences, whose steps shrink from turn to
turn; then what the data do not tell is given up, the worst first, and goes back to its prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.baselines.least_squares import Local, Problem, improve, linearise, profile
from sim2real.baselines.parameters import Detail, Parameter, to_gap
from sim2real.baselines.windows import Windows, signals
from sim2real.sim.gaps import Gap
from sim2real.sim.parameters import Variants

_DELAYS_S = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
_START_PAYLOAD = 0.2  # in units of the prior: without any mass its place would have no effect
_STEPS = 4  # at most, along one Jacobian and its updates
_SLOW = 0.95  # cost after a step over that before; above it the Jacobian is worn out
_WIDER = 4.0  # outliers in each turn before the last: far from the solution all look like some
# Steps of finite differences, in units of the prior.
_PROBE = {"setpoint": 0.3, "position": 0.1}
_NARROWER = 1.0 / 3.0
_SIGNIFICANT = 2.0  # standard deviations from its prior at which a parameter is kept


@dataclass(frozen=True, kw_only=True)
class SysIdConfig:
    """How parameters are identified.

    Attributes:
        parameters: kinds out of :data:`sim2real.baselines.parameters.KINDS`; none for all that
            make sense for the robot.
        detail: which joints share parameters, see
            :func:`sim2real.baselines.parameters.joint_groups`; None to choose by replay of the
            held-out part.
        window_s: length of a window, s; None for 0.12 (legged robot: impacts soon rule longer ones)
            or 0.25 (arm).
        windows: most windows, spread over the log.
        iterations: Jacobians at each level of detail, each good for a few steps.
        identified: a parameter whose standard deviation stays above this share of its prior's is
            not identifiable.
        validation: share of the data held out.
        seed: of the split.
    """

    parameters: tuple[str, ...] = ()
    detail: Detail | None = None
    window_s: float | None = None
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


class ParameterFit:
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
            contacts=self.robot.floating_base,
        )

    def _gap(self, z: Float) -> Gap:
        values = [p.value(float(x)) for p, x in zip(self.parameters, z, strict=True)]
        return to_gap(self.robot, self.parameters, np.array(values))

    def gap(self) -> Gap:
        """What was found."""
        return self._gap(self.z)

    def run(self, coarser: ParameterFit | None, progress: Callable[[float], None]) -> None:
        """Fit, from the result of a coarser level if there is one."""
        rounds = self.config.iterations + 1
        everything = np.ones_like(self.active)
        self._probe(0 if coarser is None else 1)
        local = self._start(coarser)
        strict = self.problem.outlier
        for i in range(self.config.iterations):
            if i:
                self._probe(i if coarser is None else i + 1)
                local = linearise(self.problem, local.z, everything)
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

    def _probe(self, turn: int) -> None:
        """Ever smaller steps of the finite differences: wide ones see past contacts."""
        probe = _PROBE[self.robot.command] * _NARROWER**turn
        self.problem = replace(self.problem, probe=probe)

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

    def _start(self, coarser: ParameterFit | None) -> Local:
        for i, parameter in enumerate(self.parameters):
            if coarser is not None:
                self.z[i] = coarser.at(parameter)
            elif parameter.name.startswith("payload") and parameter.axis < 0:
                self.z[i] = _START_PAYLOAD
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
