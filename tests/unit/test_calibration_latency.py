"""Delays and clocks against truth: shifted signals, virtual robots, receive times."""

import json

import numpy as np
import pytest

pytest.importorskip("pinocchio")

from calibration.clocks import measure_clock
from calibration.errors import CalibrationError
from calibration.excitation import Excitation
from calibration.lag import fit_lag
from calibration.latency import LatencyConfig, estimate_latency
from calibration.result import read_result
from calibration.signals import MotionLog, mean_held, shifted, smooth
from policies.robots import G1, PANDA
from sim2real import cli
from sim2real.calibrate_common import EXIT_DRIFTED, EXIT_UNTOLD
from sim2real.calibrate_motion import rigid_body
from sim2real.calibrate_play import SensorNoise, play, write_motion
from sim2real.sim.gaps import Gap

NOISE = SensorNoise(seed=3)


def waves(robot, seconds=8.0, seed=0):
    """A motion of random sines for a robot."""
    rng = np.random.default_rng(seed)
    falling = 0.3 / np.arange(1, 11)
    sine, cosine = rng.normal(size=(2, robot.n, 10)) * falling
    room = np.minimum(robot.upper_rad - robot.default_rad, robot.default_rad - robot.lower_rad)
    size = np.minimum(0.6, 0.6 * room)[:, None] / np.abs(sine + 1j * cosine).sum(axis=1)[:, None]
    return Excitation(
        joint_names=robot.joint_names,
        centre_rad=robot.default_rad,
        sine_rad=sine * size,
        cosine_rad=cosine * size,
        base_hz=0.2,
        duration_s=seconds,
        fade_s=1.0,
    )


def record(tmp_path, robot, delay_s, rate_hz, noise=NOISE):
    """Set-points and what a virtual robot measures under them."""
    gap = tmp_path / f"gap_{delay_s}.json"
    Gap(delay_s=delay_s, friction_nm={"*": 0.3}, strength={"*": 0.8}).save(gap, robot)
    motion = waves(robot)
    command = motion.at(np.arange(0.0, motion.duration_s, 1.0 / rate_hz))[0]
    return command, play(robot, str(gap), command, rate_hz, noise)


def log_of(robot, command, measured, rate_hz, effort=True):
    times = np.arange(len(command)) / rate_hz
    q, v, tau = measured
    return MotionLog(
        joint_names=robot.joint_names,
        command_s=times,
        command_rad=command,
        state_s=times,
        qpos_rad=q,
        qvel_rad_s=v,
        effort_nm=tau if effort else None,
    )


def smooth_signal(t, seed=0):
    rng = np.random.default_rng(seed)
    hz, phase = rng.uniform(0.2, 2.0, 8), rng.uniform(0, 6.28, 8)
    return np.sin(2 * np.pi * hz * np.asarray(t)[:, None] + phase).sum(axis=1)


def test_smoothing_keeps_slow_signals_and_gives_their_derivatives():
    t = np.arange(0, 6, 0.01)
    line = np.stack([2 * t - 1, np.sin(2 * np.pi * 0.5 * t)], axis=1)
    level, slope, bend = (smooth(line, 0.01, 10.0, k)[100:-100] for k in range(3))
    inner = t[100:-100]
    assert level[:, 0] == pytest.approx(2 * inner - 1, abs=1e-9)
    assert slope[:, 0] == pytest.approx(2.0, abs=1e-7)
    assert bend[:, 1] == pytest.approx(-(np.pi**2) * np.sin(np.pi * inner), abs=0.03)


def test_a_held_command_loses_nothing_between_samples():
    time, values = np.array([0.0, 0.013, 0.02]), np.array([[0.0], [1.0], [3.0]])
    assert mean_held(time, values, np.array([0.01]), 0.01)[0, 0] == pytest.approx(0.2)
    ramp = np.arange(20.0)[:, None]
    assert shifted(ramp, 2.25)[5:15, 0] == pytest.approx(ramp[5:15, 0] - 2.25)


@pytest.mark.parametrize("delay", [-0.0313, 0.0, 0.0077, 0.04, 0.15])
def test_lag_of_shifted_signals(delay):
    t = np.arange(0, 20, 0.002)
    rng = np.random.default_rng(1)
    noise = smooth(rng.normal(0, 2.0, (len(t), 1)), 0.002, 8.0)[:, 0]
    lag = fit_lag(smooth_signal(t), 0.7 * smooth_signal(t - delay) + 0.3 + noise, 0.002)
    assert lag.value_s == pytest.approx(delay, abs=4 * lag.std_s)
    assert 1e-5 < lag.std_s < 3e-3
    assert fit_lag(smooth_signal(t), smooth_signal(t, seed=9), 0.002) is None


def test_standard_deviation_of_a_lag_is_right():
    t = np.arange(0, 20, 0.005)
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        noise = smooth(rng.normal(0, 1.5, (len(t), 1)), 0.005, 5.0)[:, 0]
        lag = fit_lag(smooth_signal(t), smooth_signal(t - 0.02) + noise, 0.005)
        found.append((lag.value_s - 0.02) / lag.std_s)
    assert 0.7 <= np.sqrt(np.mean(np.square(found))) <= 1.35


@pytest.mark.parametrize("robot", [PANDA, G1], ids=lambda r: r.name)
@pytest.mark.parametrize("delay_s", [0.0, 0.0125, 0.04])
def test_dead_time_of_a_virtual_robot(tmp_path, robot, delay_s):
    rate = 1.0 / robot.physics_dt_s
    command, measured = record(tmp_path, robot, delay_s, rate)
    config = LatencyConfig(gravity_compensated=robot.gravity_compensated)
    found = estimate_latency(log_of(robot, command, measured, rate), config)
    true = round(delay_s * rate) / rate
    assert found.dead_time_from == "effort"
    assert len(found.tables["dead_time"]) > 0.6 * robot.n
    assert found.overall("dead_time").value_s == pytest.approx(true, abs=1e-3)
    for lag in found.tables["dead_time"].values():
        assert lag.value_s == pytest.approx(true, abs=max(1e-3, 4 * lag.std_s))


def test_dead_time_of_a_slow_log_without_torques(tmp_path):
    command, measured = record(tmp_path, PANDA, 0.017, PANDA.control_rate_hz)
    config = LatencyConfig(gravity_compensated=True)
    log = log_of(PANDA, command, measured, PANDA.control_rate_hz, effort=False)
    found = estimate_latency(log, config, rigid_body(PANDA))
    assert found.dead_time_from == "model"
    lag = found.overall("dead_time")
    assert lag.value_s == pytest.approx(0.017, abs=max(1e-3, 2 * lag.std_s))
    assert lag.std_s < 2e-3


def test_late_velocities_are_found(tmp_path):
    command, (q, v, tau) = record(tmp_path, PANDA, 0.0, 1000.0)
    late = np.concatenate([np.repeat(v[:1], 6, axis=0), v[:-6]])
    found = estimate_latency(log_of(PANDA, command, (q, late, tau), 1000.0), LatencyConfig())
    assert found.overall("velocity_stamp_offset").value_s == pytest.approx(0.006, abs=5e-4)
    tracking = found.overall("tracking_lag").value_s
    reaction = PANDA.kd_nm_s_rad / PANDA.kp_nm_rad  # of a joint without load
    assert 0.9 * reaction.min() < tracking < reaction.max()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda log: log.between(0.0, 2.0), "at least 3 s of motion"),
        (lambda log: log.between(100.0, 200.0), "none that overlap"),
    ],
)
def test_too_little_is_refused(tmp_path, change, what):
    command, measured = record(tmp_path, PANDA, 0.0, 100.0)
    log = log_of(PANDA, command, measured, 100.0)
    with pytest.raises(CalibrationError, match=what):
        estimate_latency(change(log), LatencyConfig())


def test_robot_that_stands_still_is_refused():
    command = np.tile(PANDA.default_rad, (800, 1))
    measured = play(PANDA, "none", command, 100.0, NOISE)
    with pytest.raises(CalibrationError, match="expected joints that move"):
        estimate_latency(log_of(PANDA, command, measured, 100.0), LatencyConfig())


def test_clock_with_drift_jitter_and_losses():
    rng = np.random.default_rng(2)
    stamp = np.arange(0, 60 * 10**9, 5_000_000) + 10**18
    stamp = stamp[rng.random(len(stamp)) > 0.05]
    late = rng.exponential(8e5, len(stamp)) + 2e6
    log = stamp + (late + 40e-6 * (stamp - stamp[0])).astype(np.int64)
    clock = measure_clock(stamp, log)
    assert clock.received
    assert clock.drift_ppm == pytest.approx(40.0, abs=max(3 * clock.drift_std_ppm, 0.1))
    assert clock.drift_std_ppm < 1.0
    assert clock.offset_s == pytest.approx(0.002 + 40e-6 * 30, abs=1e-4)
    assert clock.jitter_s == pytest.approx(8e-4, rel=0.1)
    assert clock.late_p99_s == pytest.approx(8e-4 * np.log(100), rel=0.15)
    assert clock.interval_s == pytest.approx(0.005)
    assert clock.gaps > 10
    assert not measure_clock(stamp, stamp).received
    assert measure_clock(stamp[:30], log[:30]) is None


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Bags of a Panda with two delays, and of one that hardly moves."""
    folder = tmp_path_factory.mktemp("latency")
    for name, delay in (("before", 0.005), ("same", 0.005), ("later", 0.02)):
        noise = SensorNoise(seed=len(name))
        command, measured = record(folder, PANDA, delay, 1000.0, noise)
        write_motion(
            folder / name, PANDA, "none", 1000.0, command[:5000], [x[:5000] for x in measured]
        )
    command = np.tile(PANDA.default_rad, (400, 1))
    measured = play(PANDA, "none", command, 100.0, NOISE)
    write_motion(folder / "still", PANDA, "none", 100.0, command, measured)
    assert cli.main(calibrate(folder / "before", "--json", folder / "stored.json")) == 0
    return folder


def calibrate(bag, *options):
    return [str(x) for x in ("calibrate", "latency", bag, "--robot", "panda", *options)]


def test_command_finds_the_delay_of_a_bag(bags, tmp_path):
    page = tmp_path / "r.html"
    out = tmp_path / "out.json"
    assert cli.main(calibrate(bags / "later", "--json", out, "--report", page)) == 0
    result = read_result(out, "latency")
    values = {p.name: p.value for p in result.parameters}
    assert values["dead_time.robot"] == pytest.approx(0.02, abs=1e-3)
    assert set(result.details["clocks"]) == {"/joint_states", "/joint_command"}
    assert page.read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("bag", "code", "word"),
    [
        ("same", 0, "holds"),
        ("later", EXIT_DRIFTED, "drifted"),
        ("still", EXIT_UNTOLD, "cannot tell"),
    ],
)
def test_check_tells_whether_the_delay_still_holds(bags, tmp_path, capsys, bag, code, word):
    out = tmp_path / "check.json"
    stored = bags / "stored.json"
    assert cli.main(calibrate(bags / bag, "--check", stored, "--json", out)) == code
    assert f"{word}: " in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["verdict"] == word
    if word == "drifted":
        moved = {c["name"]: c["change"] for c in content["changes"]}
        assert moved["dead_time.robot"] == pytest.approx(0.015, abs=1e-3)


@pytest.mark.parametrize(
    ("bag", "options", "what"),
    [
        ("still", ("--json", "out.json"), "expected joints that move"),
        ("before", (), "expected a file for the result"),
        ("before", ("--check", "none.json"), "cannot be read"),
        (
            "before",
            ("--json", "out.json", "--state-topic", "/other"),
            "expected messages on /other",
        ),
        ("before", ("--json", "out.json", "--robot", "g1"), "it was recorded with panda"),
        ("nothing", ("--json", "out.json"), "nothing"),
        ("before", ("--json", "out.json", "--cutoff-hz", "0"), "expected --cutoff-hz above 0"),
    ],
)
def test_bad_input_ends_in_one_sentence(bags, tmp_path, monkeypatch, capsys, bag, options, what):
    monkeypatch.chdir(tmp_path)
    assert cli.main(calibrate(bags / bag, *options)) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert what in error[0]
    assert not (tmp_path / "out.json").exists()
