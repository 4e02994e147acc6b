"""All methods on the same data: fitted on one set of episodes, measured on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.baselines.delta_dynamics import train_delta_dynamics
from sim2real.baselines.sysid import identify
from sim2real.delta.train import DeltaConfig, train_delta
from sim2real.delta.trust import TrustMeter
from sim2real.episodes.episode import Episode
from sim2real.replay.bootstrap import Intervals, bootstrap
from sim2real.replay.open_loop import HORIZONS_S, Method, ReplayResult, measure
from sim2real.sim.gaps import Gap

METHODS = (
    "open_loop",
    "domain_randomization",
    "sysid",
    "delta_dynamics",
    "delta_action",
    "sysid_delta_action",
)
REFERENCE = "open_loop"

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""

# ASAP's ranges (arXiv 2502.01143): floor friction, P gain, control delay; and masses.
_FRICTION, _GAIN, _DELAY_S, _MASS = (0.2, 1.1), (0.925, 1.05), (0.02, 0.04), (0.9, 1.1)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Errors of all methods in the same windows.

    Attributes:
        result: the errors.
        intervals: bootstrap intervals of 95 %, also of the ratios to open loop.
        trust: method -> how far its delta-action model trusted itself on the test data.
        identified: what system identification found, if it was asked.
    """

    result: ReplayResult
    intervals: Intervals
    trust: dict[str, dict[str, float | list[float]]]
    identified: Gap | None

    def to_json(self) -> dict[str, object]:
        """The JSON of `realign compare`."""
        content = self.result.to_json()
        for name, own in self.intervals.to_json(self.result).items():
            content["methods"][name] |= own
        for name, trust in self.trust.items():
            content["methods"][name]["trust"] = trust
        content["bootstrap"] = {
            "unit": self.intervals.unit,
            "units": self.intervals.units,
            "samples": self.intervals.samples,
        }
        if self.identified is not None:
            content["identified"] = self.identified.to_json()
        return content


def randomized(robot: RobotSpec, count: int, seed: int) -> tuple[Gap, ...]:
    """Simulators drawn as ASAP's domain randomization draws them; masses +-10 % besides."""
    rng = np.random.default_rng(seed)
    body = robot.base_body if robot.floating_base else robot.ee_body
    out = []
    for i in range(count):
        friction, gain, delay, mass = (
            float(rng.uniform(*bounds)) for bounds in (_FRICTION, _GAIN, _DELAY_S, _MASS)
        )
        out.append(
            Gap(
                name=f"randomized:{i}",
                kp={"*": gain},
                delay_s=delay,
                mass={body: mass} if body else {},
                floor_friction=friction if robot.floating_base else None,
            )
        )
    return tuple(out)


def compare(
    train: Sequence[Episode],
    test: Sequence[Episode],
    robot: RobotSpec,
    *,
    methods: Sequence[str] = METHODS,
    horizons_s: Sequence[float] = HORIZONS_S,
    samples: int = 1000,
    draws: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Fit each method on ``train`` and measure all of them on ``test``.

    Args:
        train: episodes to learn from.
        test: episodes to be measured on; nothing is fitted to them.
        robot: the robot.
        methods: out of :data:`METHODS`; open loop is always among them.
        horizons_s: lengths of replay from a reset, s.
        samples: bootstrap samples.
        draws: simulators drawn for domain randomization; its error is their mean.
        seed: of draws and training.
        progress: called as the work goes on.

    Raises:
        InputError: unknown methods; episodes of another robot, damaged, or too few or short.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise InputError(f"expected methods out of {list(METHODS)}, got {unknown}; correct them")
    chosen = [name for name in METHODS if name in methods or name == REFERENCE]
    report: Progress = progress or (lambda what, share: None)
    # What is wrong with the test data is said before the long work begins.
    measure(test, robot, [Method(name=REFERENCE)], horizons_s=horizons_s)
    meters: dict[str, TrustMeter] = {}
    identified: Gap | None = None
    if {"sysid", "sysid_delta_action"} & set(chosen):
        identified, _ = identify(train, robot, progress=_stage(report, "sysid"))

    def delta(name: str, simulator: Gap | None) -> Method:
        model, _ = train_delta(
            train,
            robot,
            config=DeltaConfig(seed=seed),
            simulator=simulator,
            progress=_stage(report, name),
        )
        meters[name] = TrustMeter(model)
        return Method.with_delta(meters[name], name)

    measured = []
    for name in chosen:
        if name == "domain_randomization":
            measured.append(Method(name=name, simulators=randomized(robot, draws, seed)))
        elif name == "sysid" and identified is not None:
            measured.append(Method(name=name, simulators=(identified,)))
        elif name == "delta_dynamics":
            residual = train_delta_dynamics(
                train,
                robot,
                config=DeltaConfig(seed=seed),
                progress=lambda share: report("delta_dynamics", share),
            )
            measured.append(Method(name=name, residual=residual))
        elif name == "delta_action":
            measured.append(delta(name, None))
        elif name == "sysid_delta_action":
            measured.append(delta(name, identified))
        else:
            measured.append(Method(name=name))
    result = measure(
        test,
        robot,
        measured,
        horizons_s=horizons_s,
        progress=lambda share: report("replay", share),
    )
    return Comparison(
        result=result,
        intervals=bootstrap(result, samples=samples, seed=seed, reference=REFERENCE),
        trust={name: meter.summary() for name, meter in meters.items()},
        identified=identified,
    )


def _stage(report: Progress, name: str) -> Progress:
    return lambda what, share: report(f"{name}: {what}", share)
