"""``realign calibrate actuators``: friction, strength, inertia and payload, from a bag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from sim2real.calibrate_common import Outputs, refusals_are_input, require_above_zero
from sim2real.calibrate_motion import digest, open_bag, read_motion, rigid_body
from sim2real.replay.cli import table_text
from sim2real.report import Bars, Lines, Section, Table
from sim2real.sim.gaps import MAX_DELAY_S, Gap

if TYPE_CHECKING:
    from calibration.actuator_problem import ActuatorConfig, Nominal
    from calibration.actuators import Actuators
    from calibration.compare import Comparison
    from calibration.dynamics import RigidBody
    from calibration.result import CalibrationResult
    from calibration.signals import MotionLog

_CLEAR = 3.0  # standard deviations
_SHOWN = 400  # points of a curve
_DELAY_TOLERANCE_S = 0.002
_PAYLOAD_TOLERANCE_KG = 0.1
_FRICTION_TOLERANCE = 0.005  # of the torque limit


@refusals_are_input
def calibrate_actuators(
    bag: Path,
    robot: str,
    json: Path | None = None,
    *,
    gap: Path | None = None,
    check: Path | None = None,
    tolerance_percent: float = 10.0,
    inertia: Literal["payload", "all", "urdf"] = "payload",
    payload_link: str | None = None,
    torque: Literal["auto", "effort", "command"] = "auto",
    gravity: Literal["auto", "in", "out"] = "auto",
    hold_out_s: float = 0.0,
    stand: bool = False,
    cutoff_hz: float = 5.0,
    state_topic: str | None = None,
    command_topic: str | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> int | None:
    """Friction, armature, motor strength, payload or all inertias, with intervals.

    The motion must tell them: `realign calibrate excite` makes one. What it does not tell stays as
    the robot's description says, and is named.

    Args:
        bag: commands and joint states (with torques) of a robot whose joints move.
        robot: robot name.
        json: file for the result (with --check: for the comparison).
        gap: file for the dynamics gap that --gap and --simulator of other commands take.
        check: stored result to compare with; exit code 0 holds, 4 drifted, 5 cannot tell.
        tolerance_percent: smallest change of strength and friction that matters to --check.
        inertia: payload: the URDF's bodies and a load on one link; all: every body may differ;
            urdf: none does.
        payload_link: link that a load is on; default the robot's hand or torso.
        torque: effort: measured; command: of the PD loops on the commands; auto: measured where the
            bag has efforts at 200 Hz or more.
        gravity: whether measured torques hold the arm's weight (in) or its controller does so
            beside (out); auto looks at the data.
        hold_out_s: the last seconds are not fitted but predicted, s.
        stand: the base of a legged robot was held, upright.
        cutoff_hz: motion above it is not looked at, Hz.
        state_topic: joint states; /joint_states by default.
        command_topic: commands; /joint_command or /joint_commands by default.
        report: file for an HTML page.
        overwrite: replace these files if they exist.
    """
    from calibration.actuators import calibrate_actuators

    spec = get_robot(robot)
    outputs = Outputs(json=json, check=check, report=report, others=(gap,), overwrite=overwrite)
    require_above_zero(cutoff_hz=cutoff_hz, tolerance_percent=tolerance_percent)
    if hold_out_s:
        require_above_zero(hold_out_s=hold_out_s)
    if spec.floating_base and not stand:
        raise InputError(
            f"expected a robot whose base is held, got {robot}, which walks; put it on a stand "
            "and give --stand"
        )
    opened = open_bag(bag, spec)
    log, _ = read_motion(opened, spec, state_topic, command_topic)
    body = rigid_body(spec)
    source = _source(log, torque)
    config = _config(spec, log, body, inertia, payload_link, source, gravity, cutoff_hz)
    if check is not None:

        def compare_with(stored: CalibrationResult) -> Comparison:
            from calibration.compare import compare

            new = calibrate_actuators(log, body, nominal_joints(spec), config)
            return compare(
                stored,
                new.to_result({}, {}, digest(opened)),
                _tolerances(stored, spec, tolerance_percent / 100.0),
            )

        return outputs.settle("actuators", compare_with)
    start, end = log.span_s()
    fitted = log.between(start, end - hold_out_s) if hold_out_s else log
    found = calibrate_actuators(fitted, body, nominal_joints(spec), config)
    held: _HeldOut | None = None
    if hold_out_s:
        held = _HeldOut(found, log.between(end - hold_out_s, end + 1.0), body)
    details = {"robot": robot, "hold_out_s": hold_out_s, "duration_s": end - start - hold_out_s}
    result = found.to_result(held.residuals() if held else {}, details, digest(opened))
    outputs.finish(result, _summary(found), _sections(found, held))
    if held:
        print(f"\nresidual torque on the last {hold_out_s:g} s, Nm rms")
        print(table_text(_HELD_OUT_HEADER, held.rows()))
    if gap is not None:
        to_gap(spec, found).save(gap, spec, found_by="realign calibrate actuators")
        print(f"gap: {gap}")
    return None


def _source(
    log: MotionLog, torque: Literal["auto", "effort", "command"]
) -> Literal["effort", "command"]:
    from calibration.actuators import fast_enough

    if torque != "auto":
        return torque
    return "effort" if log.effort_nm is not None and fast_enough(log) else "command"


def _config(
    spec: RobotSpec,
    log: MotionLog,
    body: RigidBody,
    inertia: Literal["payload", "all", "urdf"],
    payload_link: str | None,
    torque: Literal["effort", "command"],
    gravity: Literal["auto", "in", "out"],
    cutoff_hz: float,
) -> ActuatorConfig:
    from calibration.actuator_problem import ActuatorConfig
    from calibration.actuators import gravity_is_in_torque

    inside = gravity == "in"
    if gravity == "auto":
        inside = not spec.gravity_compensated
        if torque == "effort":
            inside = gravity_is_in_torque(log, body)
    return ActuatorConfig(
        inertia=inertia,
        payload_link=payload_link or ("torso_link" if spec.floating_base else "panda_hand"),
        torque=torque,
        gravity_in_torque=inside,
        cutoff_hz=cutoff_hz,
    )


def nominal_joints(spec: RobotSpec) -> Nominal:
    """A robot's joints as its description says."""
    from calibration.actuator_problem import Nominal

    return Nominal(
        coulomb_nm=spec.array("friction_nm"),
        viscous_nm_s_rad=spec.array("damping_nm_s_rad"),
        armature_kg_m2=spec.array("armature_kg_m2"),
        kp_nm_rad=spec.kp_nm_rad,
        kd_nm_s_rad=spec.kd_nm_s_rad,
        effort_nm=spec.effort_limit_nm,
    )


def to_gap(spec: RobotSpec, found: Actuators) -> Gap:
    """The difference between the robot's description and what was found, as simulators take it.

    What the data do not tell, and small numbers that could be chance (velocity gain, encoder zero),
    stay nominal. A simulator has Coulomb and viscous friction, no Stribeck's.
    """
    values = found.values()
    tables: dict[str, dict[str, float]] = {}
    nominal = nominal_joints(spec)
    plain: list[tuple[str, str, Any]] = [
        ("coulomb", "friction_nm", nominal.coulomb_nm),
        ("viscous", "damping_nm_s_rad", nominal.viscous_nm_s_rad),
        ("armature", "armature_kg_m2", nominal.armature_kg_m2),
        ("strength", "strength", None),
    ]
    for j, joint in enumerate(spec.joint_names):
        for kind, table, usual in plain:
            value, _, _, told = values.get(f"{kind}.{joint}", (0.0, 0.0, "", False))
            if told:
                less = 0.0 if usual is None else float(usual[j])
                tables.setdefault(table, {})[joint] = value - less
        for kind, table, usual in (("kd_ratio", "kd", 1.0), ("zero", "offset_rad", 0.0)):
            value, std, _, told = values.get(f"{kind}.{joint}", (usual, 0.0, "", False))
            if told and abs(value - usual) > _CLEAR * std:
                tables.setdefault(table, {})[joint] = value
    link = found.config.payload_link
    mass, std, _, told = values.get(f"payload.{link}", (0.0, 0.0, "", False))
    content: dict[str, Any] = {
        "name": "calibrated",
        "delay_s": float(np.clip(found.dead_time_s or 0.0, 0.0, MAX_DELAY_S)),
        **tables,
    }
    if told and mass > _CLEAR * std:
        moment = [values[f"payload_moment_{axis}.{link}"][0] for axis in "xyz"]
        content["payload_kg"] = {link: mass}
        content["payload_com_m"] = {link: [x / mass for x in moment]}
    return Gap.from_json(content, "what was found")


def _tolerances(stored: CalibrationResult, spec: RobotSpec, part: float) -> dict[str, float]:
    limit = dict(zip(spec.joint_names, spec.effort_limit_nm.tolist(), strict=True))
    out: dict[str, float] = {}
    for parameter in stored.parameters:
        kind, _, of = parameter.name.partition(".")
        if kind == "strength":
            out[parameter.name] = part * parameter.value
        elif kind == "coulomb":
            out[parameter.name] = max(part * parameter.value, _FRICTION_TOLERANCE * limit[of])
        elif kind == "payload":
            out[parameter.name] = max(part * parameter.value, _PAYLOAD_TOLERANCE_KG)
        elif kind == "dead_time":
            out[parameter.name] = _DELAY_TOLERANCE_S
    return out


_HELD_OUT_HEADER = ("joint", "URDF", "calibrated", "less by")


class _HeldOut:
    """Torques of the part that was not fitted."""

    def __init__(self, found: Actuators, log: MotionLog, body: RigidBody) -> None:
        from calibration.actuators import torque_errors

        self.names = found.joint_names
        self.samples, self.predicted, self.rms = torque_errors(found, log, body)

    def rows(self) -> list[tuple[str, ...]]:
        """Joint, residual of the URDF, of the calibration, and how much smaller that is."""
        return [
            (name, f"{before:.3f}", f"{after:.3f}", f"{1 - after / before:.0%}")
            for name in self.names
            for before, after in [(self.rms["urdf"][name], self.rms["calibrated"][name])]
        ]

    def residuals(self) -> dict[str, Any]:
        """As residuals of a result."""
        from calibration.result import Residual

        return {
            f"held_out.{kind}.{joint}": Residual(value=rms, unit="Nm")
            for kind, table in self.rms.items()
            for joint, rms in table.items()
        }

    def charts(self) -> list[Section]:
        """Residuals, and the torques of the joint that is improved least."""
        joint = max(self.names, key=lambda n: self.rms["calibrated"][n] / self.rms["urdf"][n])
        j = self.names.index(joint)
        some = slice(None, None, max(1, len(self.samples) // _SHOWN))
        measured = self.samples.torque_nm
        assert measured is not None
        curves = {"logged": measured, **self.predicted}
        return [
            Bars(
                heading="Residual torque of the held-out part",
                labels=self.names,
                series={kind: [table[n] for n in self.names] for kind, table in self.rms.items()},
                unit="Nm",
            ),
            Lines(
                heading=f"Torque of {joint}, the joint that gains least",
                x=self.samples.time_s[some].tolist(),
                series={name: curve[some, j].tolist() for name, curve in curves.items()},
                x_label="time, s",
                y_label="Nm",
            ),
        ]


def _summary(found: Actuators) -> str:
    solution = found.solution
    kept = [u.name for u, told in zip(solution.unknowns, solution.told, strict=True) if not told]
    parts = [
        f"{len(found.joint_names)} joints, torques from {found.config.torque}s "
        f"({'with' if found.config.gravity_in_torque else 'without'} gravity), inertia: "
        f"{found.config.inertia}",
        f"the motion tells {solution.combinations} of {len(solution.unknowns)} combinations, "
        f"condition number {solution.condition:.1e}",
    ]
    if solution.weak:
        parts.append(f"least told: {'; '.join(solution.weak)}")
    if found.unseen_payload:
        parts.append(f"a load on {found.config.payload_link} would not show in this motion")
    if found.strength is None and found.config.torque == "effort":
        parts.append("no PD loop on the commands explains the torques: strength is not told")
    if kept:
        parts.append(f"stay as described: {', '.join(kept)}")
    return "; ".join(parts)


def _sections(found: Actuators, held: _HeldOut | None) -> list[Section]:
    values = found.values()
    names = found.joint_names
    speed = 0.5
    friction = {
        "Coulomb": [values[f"coulomb.{n}"][0] for n in names],
        f"viscous at {speed} rad/s": [speed * values[f"viscous.{n}"][0] for n in names],
    }
    out: list[Section] = [Bars(heading="Friction", labels=names, series=friction, unit="Nm")]
    if f"strength.{names[0]}" in values:
        strength = [values[f"strength.{n}"][0] for n in names]
        out.append(Bars(heading="Strength", labels=names, series={"strength": strength}, unit="1"))
    rows = tuple((name, f"{rms:.3f}") for name, rms in found.rms_nm.items())
    out.append(Table(heading="Residual torque", header=("joint", "Nm rms"), rows=rows))
    return out + (held.charts() if held else [])
