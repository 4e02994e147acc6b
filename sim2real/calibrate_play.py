"""``realign calibrate excite`` and ``play``: motion that tells the dynamics, on a virtual robot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.robots import get_robot
from sim2real.bags.batch import NS
from sim2real.bags.joints import JOINT_STATE, TRAJECTORY
from sim2real.bags.writer import BagWriter
from sim2real.calibrate_common import refusals_are_input, require_above_zero
from sim2real.calibrate_messages import MessageWriter
from sim2real.calibrate_motion import rigid_body
from sim2real.episodes.streams import COMMAND_TOPICS, STATE_TOPIC
from sim2real.results import check_new
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import Stepper, default_state

_START_NS = NS


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """Noise of a virtual robot's sensors, standard deviations.

    Attributes:
        position_rad, velocity_rad_s: of joint positions and velocities.
        effort: of torques, as a share of each joint's limit.
        seed: of the random numbers.
    """

    position_rad: float = 1e-4
    velocity_rad_s: float = 5e-3
    effort: float = 1e-3
    seed: int = 0


@refusals_are_input
def calibrate_excite(
    robot: str,
    out: Path,
    *,
    duration_s: float = 20.0,
    amplitude_rad: float = 0.5,
    harmonics: int = 10,
    share: float = 0.8,
    tries: int = 60,
    seed: int = 0,
    csv: Path | None = None,
    csv_rate_hz: float = 1000.0,
    overwrite: bool = False,
) -> None:
    """Motion within a robot's limits from which its friction, inertia and payload can be told.

    Look at it on the virtual robot first (`realign calibrate play`): limits of single joints are
    kept, but links may still meet each other or a table.

    Args:
        robot: robot name; a legged one stands still on a stand.
        out: JSON file for the motion.
        duration_s: length, s, at least 10.
        amplitude_rad: largest distance of a joint from the default pose, rad.
        harmonics: number of frequencies, multiples of 0.1 Hz.
        share: of the position, velocity, acceleration and torque limits that is used.
        tries: motions that are compared.
        seed: of the random numbers.
        csv: file for the motion as a table of times, positions and velocities.
        csv_rate_hz: rows a second in it.
        overwrite: replace these files if they exist.
    """
    from calibration.excitation import ExcitationConfig, Limits, excite

    spec = get_robot(robot)
    for file in (out, csv):
        check_new(file, overwrite=overwrite)
    require_above_zero(csv_rate_hz=csv_rate_hz)
    config = ExcitationConfig(
        duration_s=duration_s,
        amplitude_rad=amplitude_rad,
        harmonics=harmonics,
        share=share,
        tries=tries,
        seed=seed,
    )
    limits = Limits(
        lower_rad=spec.lower_rad,
        upper_rad=spec.upper_rad,
        velocity_rad_s=spec.velocity_limit_rad_s,
        acceleration_rad_s2=spec.array("acceleration_limit_rad_s2"),
        effort_nm=spec.effort_limit_nm,
    )
    with tqdm(total=tries, desc="excite", unit="motion", disable=None) as bar:
        motion, told = excite(
            rigid_body(spec),
            limits,
            spec.default_rad,
            config,
            lambda done: bar.update(round(done * tries) - bar.n) and None,
        )
    motion.save(out, spec.name, told)
    if csv is not None:
        times = np.arange(0.0, duration_s, 1.0 / csv_rate_hz)
        q, v, _ = motion.at(times)
        header = ["time_s", *(f"{n}_rad" for n in spec.joint_names)]
        header += [f"{n}_rad_s" for n in spec.joint_names]
        table = np.column_stack([times, q, v])
        np.savetxt(csv, table, fmt="%.9g", delimiter=",", header=",".join(header), comments="")
    q, v, _ = motion.at(np.arange(0.0, duration_s, 0.01))
    reach = np.abs(q - spec.default_rad).max(axis=0)
    print(
        f"{out}: {duration_s:g} s, joints move {reach.min():.2f} to {reach.max():.2f} rad from the "
        f"default pose at up to {np.abs(v).max():.2f} rad/s; tells {told['told']:.0f} of "
        f"{told['unknowns']:.0f} combinations of parameters, condition number "
        f"{told['condition']:.1e}"
    )


@refusals_are_input
def calibrate_play(
    motion: Path,
    robot: str,
    record: Path,
    *,
    gap: str = "none",
    rate_hz: float | None = None,
    position_noise_rad: float = 1e-4,
    velocity_noise_rad_s: float = 5e-3,
    effort_noise: float = 1e-3,
    seed: int = 0,
) -> None:
    """Play a motion on the virtual robot, its base held, and record commands, states and torques.

    Args:
        motion: JSON file of `realign calibrate excite`.
        robot: robot name; a legged one is on a stand.
        record: bag to write; it must not exist.
        gap: dynamics gap of the virtual robot, e.g. hidden:7 or a JSON file.
        rate_hz: commands and states a second; default: every step of the simulator.
        position_noise_rad: standard deviation of the position sensors' noise, rad.
        velocity_noise_rad_s: of the velocities, rad/s.
        effort_noise: of the torques, as a share of the torque limits.
        seed: of the noise.
    """
    from calibration.excitation import read_excitation

    spec = get_robot(robot)
    plan = read_excitation(motion, robot)
    if plan.joint_names != spec.joint_names:
        raise InputError(
            f"expected a motion of the joints {', '.join(spec.joint_names)}, got "
            f"{', '.join(plan.joint_names)}; make it again with `realign calibrate excite`"
        )
    check_new(record, overwrite=False)
    rate = 1.0 / spec.physics_dt_s if rate_hz is None else rate_hz
    require_above_zero(rate_hz=rate)
    noise = SensorNoise(
        position_rad=position_noise_rad,
        velocity_rad_s=velocity_noise_rad_s,
        effort=effort_noise,
        seed=seed,
    )
    times = np.arange(0.0, plan.duration_s, 1.0 / rate)
    measured = play(spec, gap, plan.at(times)[0], rate, noise)
    write_motion(record, spec, gap, rate, plan.at(times)[0], measured)
    print(f"{record}: {plan.duration_s:g} s of {robot} at {rate:g} Hz")


def play(
    robot: RobotSpec, gap: Gap | str, command_rad: Float, rate_hz: float, noise: SensorNoise
) -> tuple[Float, Float, Float]:
    """Play set-points on a virtual robot whose base is held.

    Args:
        robot: the robot.
        gap: its dynamics gap, or the name of one.
        command_rad: set-points, one for each tick, (T, n).
        rate_hz: ticks a second.
        noise: of the sensors.

    Returns:
        Positions, velocities and torques as measured at the start of each tick, each (T, n).
    """
    held = replace(robot, floating_base=False)
    hidden = make_gap(robot, gap) if isinstance(gap, str) else gap
    stepper = Stepper(held, hidden, rate_hz=rate_hz)
    stepper.reset(default_state(held, command_rad[0]))
    rows = []
    for target in tqdm(command_rad, desc="play", unit="tick", disable=None):
        state = stepper.state
        rows.append((state.qpos_rad, state.qvel_rad_s, stepper.effort_nm))
        stepper.step(target)
    q, v, effort = (np.array(values) for values in zip(*rows, strict=True))
    rng = np.random.default_rng(noise.seed)
    return (
        q + noise.position_rad * rng.normal(size=q.shape),
        v + noise.velocity_rad_s * rng.normal(size=q.shape),
        effort + noise.effort * robot.effort_limit_nm * rng.normal(size=q.shape),
    )


def write_motion(
    path: Path,
    robot: RobotSpec,
    gap: str,
    rate_hz: float,
    command_rad: Float,
    measured: tuple[Float, Float, Float],
) -> None:
    """Write commands (T, n) and measured positions, velocities and torques as a bag.

    Raises:
        InputError: the path exists, or cannot be made.
    """
    messages = MessageWriter(robot)
    provenance = {
        "robot": robot.name,
        "robot_fingerprint": robot.fingerprint,
        # what it hides is to be found, not told
        "gap": "hidden" if gap.startswith("hidden") else gap,
    }
    with BagWriter(path, provenance=provenance) as bag:
        bag.add_topic(STATE_TOPIC, JOINT_STATE)
        bag.add_topic(COMMAND_TOPICS[0], TRAJECTORY)
        for k, (command, q, v, effort) in enumerate(zip(command_rad, *measured, strict=True)):
            stamp_ns = _START_NS + round(k * NS / rate_hz)
            bag.write(STATE_TOPIC, messages.joint_state(stamp_ns, q, v, effort), stamp_ns)
            bag.write(COMMAND_TOPICS[0], messages.command(stamp_ns, command), stamp_ns)
