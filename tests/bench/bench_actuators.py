"""Calibration of joints on virtual robots: errors and coverage over hidden gaps; delays.

Each seed hides another gap (strength, friction, damping, load, delay) and has other noise: 1e-4 rad
in positions, a thousandth of the torque limit in torques.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from calibration.actuator_problem import ActuatorConfig
from calibration.actuators import calibrate_actuators
from calibration.excitation import Excitation, ExcitationConfig, Limits, excite
from calibration.latency import LatencyConfig, estimate_latency
from calibration.signals import MotionLog
from policies.interface import RobotSpec
from policies.robots import G1, PANDA
from sim2real.calibrate_actuators import nominal_joints
from sim2real.calibrate_motion import rigid_body
from sim2real.calibrate_play import SensorNoise, play
from sim2real.sim.gaps import Gap, make_gap

LINK = {"panda": "panda_hand", "g1": "torso_link"}
REACH_RAD = {"panda": 0.5, "g1": 0.8}
DELAYS_S = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04)
KINDS = ("strength", "coulomb", "viscous")


def motion_of(robot: RobotSpec, duration_s: float) -> Excitation:
    """Motion that excites a robot."""
    limits = Limits(
        lower_rad=robot.lower_rad,
        upper_rad=robot.upper_rad,
        velocity_rad_s=robot.velocity_limit_rad_s,
        acceleration_rad_s2=robot.array("acceleration_limit_rad_s2"),
        effort_nm=robot.effort_limit_nm,
    )
    config = ExcitationConfig(tries=30, amplitude_rad=REACH_RAD[robot.name], duration_s=duration_s)
    return excite(rigid_body(robot), limits, robot.default_rad, config)[0]


def record(robot: RobotSpec, gap: Gap | str, motion: Excitation, seed: int, rate_hz: float):
    """Noisy log of a virtual robot."""
    command = motion.at(np.arange(0.0, motion.duration_s, 1.0 / rate_hz))[0]
    q, v, effort = play(robot, gap, command, rate_hz, SensorNoise(seed=seed))
    times = np.arange(len(command)) / rate_hz
    return MotionLog(
        joint_names=robot.joint_names,
        command_s=times,
        command_rad=command,
        state_s=times,
        qpos_rad=q,
        qvel_rad_s=v,
        effort_nm=effort,
    )


def truth_of(robot: RobotSpec, gap: Gap) -> dict[str, np.ndarray]:
    """Kind -> true value of each joint."""
    return {
        "strength": gap.per_joint(robot, gap.strength, factor=True),
        "coulomb": robot.array("friction_nm") + gap.per_joint(robot, gap.friction_nm, factor=False),
        "viscous": robot.array("damping_nm_s_rad")
        + gap.per_joint(robot, gap.damping_nm_s_rad, factor=False),
    }


def actuators(robot: RobotSpec, seeds: int, duration_s: float) -> None:
    """Errors and coverage over hidden gaps."""
    motion, body = motion_of(robot, duration_s), rigid_body(robot)
    config = ActuatorConfig(
        payload_link=LINK[robot.name], gravity_in_torque=not robot.gravity_compensated
    )
    errors: dict[str, list[np.ndarray]] = {kind: [] for kind in (*KINDS, "friction")}
    scaled: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    loads = []
    for seed in range(seeds):
        gap = make_gap(robot, f"hidden:{seed}")
        log = record(robot, f"hidden:{seed}", motion, seed, 1.0 / robot.physics_dt_s)
        found = calibrate_actuators(log, body, nominal_joints(robot), config).values()
        truth = truth_of(robot, gap)
        rows = {k: np.array([found[f"{k}.{j}"][:2] for j in robot.joint_names]).T for k in KINDS}
        for kind, (value, std) in rows.items():
            errors[kind].append(value / truth[kind] - 1)
            scaled[kind].append((value - truth[kind]) / std)
        speed = np.sqrt(np.mean(np.gradient(log.qpos_rad, log.state_s, axis=0) ** 2, axis=0))
        torque = [rows["coulomb"][0] + speed * rows["viscous"][0]]
        torque.append(truth["coulomb"] + speed * truth["viscous"])
        errors["friction"].append(torque[0] / torque[1] - 1)
        link = f"payload.{LINK[robot.name]}"
        if link in found and found[link][3]:
            loads.append(found[link][0] / gap.payload_kg[LINK[robot.name]] - 1)
    print(f"\n{robot.name}, {seeds} hidden gaps, {duration_s:g} s")
    print("| what | median error | 95 % of errors below | largest | 95 % intervals cover |")
    print("|---|---|---|---|---|")
    for kind, values in errors.items():
        e = np.abs(np.array(values))
        cover = f"{np.mean(np.abs(scaled[kind]) < 1.96):.1%}" if kind in scaled else ""
        name = "friction at rms speed" if kind == "friction" else kind
        sizes = f"{np.median(e):.2%} | {np.quantile(e, 0.95):.2%} | {e.max():.1%}"
        print(f"| {name} | {sizes} | {cover} |")
    if loads:
        e = np.abs(loads)
        print(f"| load | {np.median(e):.2%} | {np.quantile(e, 0.95):.2%} | {e.max():.1%} | |")


def delays(robot: RobotSpec) -> None:
    """Error of the dead time over delays, with torques at full rate and without at control rate."""
    motion, body = motion_of(robot, 10.0), rigid_body(robot)
    config = LatencyConfig(gravity_compensated=robot.gravity_compensated)
    print(f"\n{robot.name}: dead time")
    print("| true, ms | torques at full rate: error, ms | +- | no torques, control rate | +- |")
    print("|---|---|---|---|---|")
    for delay in DELAYS_S:
        gap = Gap(delay_s=delay, friction_nm={"*": 0.3}, strength={"*": 0.8})
        true = round(delay / robot.physics_dt_s) * robot.physics_dt_s
        cells = [f"{true * 1e3:g}"]
        for rate in (1.0 / robot.physics_dt_s, robot.control_rate_hz):
            log = record(robot, gap, motion, 1, rate)
            if rate == robot.control_rate_hz:
                log = replace(log, effort_nm=None)
            lag = estimate_latency(log, config, body).overall("dead_time")
            assert lag is not None
            cells += [f"{(lag.value_s - true) * 1e3:+.2f}", f"{lag.std_s * 1e3:.2f}"]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="hidden gaps")
    parser.add_argument("--robots", nargs="+", default=["panda", "g1"], choices=["panda", "g1"])
    parser.add_argument("--only", choices=["delays", "actuators"], help="one table only")
    args = parser.parse_args()
    for robot, duration in ((PANDA, 20.0), (G1, 30.0)):
        if robot.name in args.robots:
            if args.only != "actuators":
                delays(robot)
            if args.only != "delays":
                actuators(robot, args.seeds, duration)


if __name__ == "__main__":
    main()
