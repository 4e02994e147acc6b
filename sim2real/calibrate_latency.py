"""``realign calibrate latency``: delays and clocks, from a bag."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from policies.robots import get_robot
from sim2real.calibrate_common import (
    Outputs,
    refusals_are_input,
    require_above_zero,
    tell_untold,
    untold_sections,
)
from sim2real.calibrate_motion import digest, open_bag, read_clocks, read_motion, rigid_body
from sim2real.report import Bars, Section, Table

if TYPE_CHECKING:
    from calibration.clocks import Clock
    from calibration.compare import Comparison
    from calibration.latency import Latency
    from calibration.result import CalibrationResult


@refusals_are_input
def calibrate_latency(
    bag: Path,
    robot: str,
    json: Path | None = None,
    *,
    check: Path | None = None,
    tolerance_ms: float = 2.0,
    state_topic: str | None = None,
    command_topic: str | None = None,
    stand: bool = False,
    cutoff_hz: float = 8.0,
    report: Path | None = None,
    overwrite: bool = False,
) -> int | None:
    """Delays between command and motion for each joint, late sensors, clocks and jitter.

    Args:
        bag: commands and joint states of a robot whose joints move.
        robot: robot name.
        json: file for the result (with --check: for the comparison).
        check: stored result to compare with; exit code 0 holds, 4 drifted, 5 cannot tell.
        tolerance_ms: smallest change that matters to --check, ms.
        state_topic: joint states; /joint_states by default.
        command_topic: commands; /joint_command or /joint_commands by default.
        stand: the base of a legged robot was held; lets its model be used where states are slow.
        cutoff_hz: motion above it is not looked at, Hz.
        report: file for an HTML page.
        overwrite: replace these files if they exist.
    """
    from calibration.latency import LatencyConfig, estimate_latency

    spec = get_robot(robot)
    outputs = Outputs(json=json, check=check, report=report, overwrite=overwrite)
    require_above_zero(cutoff_hz=cutoff_hz, tolerance_ms=tolerance_ms)
    opened = open_bag(bag, spec)
    log, topics = read_motion(opened, spec, state_topic, command_topic)
    clocks = read_clocks(opened, topics)
    body = None if spec.floating_base and not stand else rigid_body(spec)
    config = LatencyConfig(cutoff_hz=cutoff_hz, gravity_compensated=spec.gravity_compensated)

    def find() -> tuple[Latency, CalibrationResult]:
        found = estimate_latency(log, config, body)
        return found, _result(found, clocks, digest(opened), robot)

    if check is not None:

        def compare_with(stored: CalibrationResult) -> Comparison:
            from calibration.compare import compare

            new = find()[1]
            return compare(stored, new, dict.fromkeys(_compared(stored), tolerance_ms / 1e3))

        return outputs.settle("latency", compare_with)
    found, result = find()
    outputs.finish(result, _summary(found, clocks), _sections(found, clocks))
    tell_untold(found.untold)
    return None


def _compared(stored: CalibrationResult) -> list[str]:
    """Delays that must not change; lags of a controller depend on the motion too."""
    names = [parameter.name for parameter in stored.parameters]
    kinds: tuple[str, ...] = ("tracking_lag.", "velocity_lag.", "velocity_stamp_offset.")
    if "dead_time.robot" in names:
        kinds = ("dead_time.robot", "velocity_stamp_offset.")
    return [name for name in names if name.startswith(kinds)]


def _result(
    found: Latency, clocks: dict[str, Clock], data_sha256: str, robot: str
) -> CalibrationResult:
    import numpy as np

    from calibration.result import CalibrationResult, Parameter, Residual

    parameters, std = found.parameters()
    for topic, clock in clocks.items():
        if clock.received:
            parameters += [
                Parameter(name=f"clock_offset.{topic}", value=clock.offset_s, unit="s"),
                Parameter(name=f"clock_drift.{topic}", value=clock.drift_ppm, unit="ppm"),
            ]
            std += [clock.offset_std_s, clock.drift_std_ppm]
    return CalibrationResult(
        kind="latency",
        parameters=tuple(parameters),
        covariance=np.diag(np.square(std)),
        frames={},
        residuals={
            f"{kind}.{joint}.explained": Residual(value=lag.share, unit="1")
            for kind, table in found.tables.items()
            for joint, lag in table.items()
        },
        details={
            "robot": robot,
            "duration_s": found.duration_s,
            "dead_time_from": found.dead_time_from,
            "untold": found.untold,
            "clocks": {topic: asdict(clock) for topic, clock in clocks.items()},
        },
        data_sha256=data_sha256,
    )


_WORDS = {
    "tracking_lag": "motion behind command",
    "velocity_lag": "measured behind commanded velocity",
    "velocity_stamp_offset": "measured velocity behind measured position",
    "dead_time": "dead time of commands",
}


def _summary(found: Latency, clocks: dict[str, Clock]) -> str:
    parts = []
    for kind, words in _WORDS.items():
        lag = found.overall(kind)
        shown = (
            "not told" if lag is None else f"{lag.value_s * 1e3:.2f} +- {lag.std_s * 1e3:.2f} ms"
        )
        parts.append(f"{words} {shown}")
    for topic, clock in clocks.items():
        if clock.received:
            parts.append(
                f"{topic}: received {clock.offset_s * 1e3:.2f} ms after its stamp at best, drift "
                f"{clock.drift_ppm:.1f} +- {clock.drift_std_ppm:.1f} ppm, jitter "
                f"{clock.jitter_s * 1e3:.2f} ms (99 %: {clock.late_p99_s * 1e3:.2f})"
            )
        else:
            parts.append(
                f"{topic}: no times of reception beside the stamps; stamps every "
                f"{clock.interval_s * 1e3:.2f} +- {clock.interval_jitter_s * 1e3:.2f} ms, "
                f"{clock.gaps} gaps"
            )
    return "; ".join(parts)


def _sections(found: Latency, clocks: dict[str, Clock]) -> list[Section]:
    tables = {kind: table for kind, table in found.tables.items() if table}
    joints = list(dict.fromkeys(joint for table in tables.values() for joint in table))
    nothing = float("nan")
    sections: list[Section] = [
        Bars(
            heading="Delays of each joint",
            labels=tuple(joints),
            series={
                _WORDS[kind]: [
                    1e3 * table[joint].value_s if joint in table else nothing for joint in joints
                ]
                for kind, table in tables.items()
            },
            unit="ms",
        )
    ]
    if clocks:
        rows = tuple(
            (
                topic,
                *(f"{1e3 * x:.3f}" for x in (c.offset_s, c.jitter_s, c.late_p99_s)),
                f"{c.drift_ppm:.1f} +- {c.drift_std_ppm:.1f}",
                *(f"{1e3 * x:.3f}" for x in (c.interval_s, c.interval_jitter_s)),
                str(c.gaps),
            )
            for topic, c in clocks.items()
        )
        header = (
            *("topic", "received after stamp, ms", "jitter, ms", "99 %, ms", "drift, ppm"),
            *("interval, ms", "its jitter, ms", "gaps"),
        )
        sections.append(Table(heading="Clocks", header=header, rows=rows))
    return sections + untold_sections(found.untold, "delay")
