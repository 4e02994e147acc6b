"""Friction, strength, inertia and payload of virtual robots whose parameters are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pinocchio")

from calibration.actuator_problem import ActuatorConfig
from calibration.actuators import calibrate_actuators, gravity_is_in_torque
from calibration.errors import CalibrationError
from calibration.excitation import (
    ExcitationConfig,
    Limits,
    check_limits,
    excite,
    read_excitation,
)
from calibration.inertia import Bodies, from_pseudo_inertia, is_physical, pseudo_inertia
from calibration.result import read_result
from calibration.signals import MotionLog
from policies.robots import G1, PANDA
from sim2real import cli
from sim2real.calibrate_actuators import nominal_joints, to_gap
from sim2real.calibrate_common import EXIT_DRIFTED, EXIT_UNTOLD
from sim2real.calibrate_motion import rigid_body
from sim2real.calibrate_play import SensorNoise, play, write_motion
from sim2real.sim.gaps import Gap, load_gap, make_gap

LINK = {"panda": "panda_hand", "g1": "torso_link"}
GAP = "hidden:7"


def limits_of(robot):
    return Limits(
        lower_rad=robot.lower_rad,
        upper_rad=robot.upper_rad,
        velocity_rad_s=robot.velocity_limit_rad_s,
        acceleration_rad_s2=robot.array("acceleration_limit_rad_s2"),
        effort_nm=robot.effort_limit_nm,
    )


def motion_of(robot, **options):
    config = ExcitationConfig(tries=6, **options)
    return excite(rigid_body(robot), limits_of(robot), robot.default_rad, config)[0]


def config_of(robot, **options):
    return ActuatorConfig(
        payload_link=LINK[robot.name],
        gravity_in_torque=not robot.gravity_compensated,
        **options,
    )


def truth_of(robot, gap):
    """Name of each number -> what it is in the simulator."""
    out = {}
    for i, (name, joint) in enumerate(zip(robot.joint_names, robot.joints, strict=True)):
        added = [
            gap.per_joint(robot, t, factor=False)[i]
            for t in (gap.friction_nm, gap.damping_nm_s_rad)
        ]
        out[f"coulomb.{name}"] = joint.friction_nm + added[0]
        out[f"viscous.{name}"] = joint.damping_nm_s_rad + added[1]
        out[f"strength.{name}"] = gap.per_joint(robot, gap.strength, factor=True)[i]
    return out


def record(robot, gap, motion, seed=0, rate_hz=None):
    """Log of a virtual robot without noise."""
    rate = rate_hz or 1.0 / robot.physics_dt_s
    command = motion.at(np.arange(0.0, motion.duration_s, 1.0 / rate))[0]
    none = SensorNoise(position_rad=0.0, velocity_rad_s=0.0, effort=0.0)
    q, v, effort = play(robot, gap, command, rate, none)
    times = np.arange(len(command)) / rate
    return MotionLog(
        joint_names=robot.joint_names,
        command_s=times,
        command_rad=command,
        state_s=times,
        qpos_rad=q,
        qvel_rad_s=v,
        effort_nm=effort,
    )


def noisy(log, robot, seed):
    rng = np.random.default_rng(seed)
    noise = SensorNoise()
    shape = log.qpos_rad.shape
    return replace(
        log,
        qpos_rad=log.qpos_rad + noise.position_rad * rng.normal(size=shape),
        qvel_rad_s=log.qvel_rad_s + noise.velocity_rad_s * rng.normal(size=shape),
        effort_nm=log.effort_nm + noise.effort * robot.effort_limit_nm * rng.normal(size=shape),
    )


def solve(log, robot, **options):
    return calibrate_actuators(
        log, rigid_body(robot), nominal_joints(robot), config_of(robot, **options)
    )


@pytest.fixture(scope="module")
def panda():
    return record(PANDA, GAP, motion_of(PANDA))


@pytest.fixture(scope="module")
def panda_bags(panda, tmp_path_factory):
    """A recorded bag, a new one of the same robot, one of a changed robot, a short one."""
    folder = tmp_path_factory.mktemp("actuators")
    changed = make_gap(PANDA, GAP)
    strength = {**changed.strength, "panda_joint4": 0.75 * changed.strength["panda_joint4"]}
    replace(changed, strength=strength).save(folder / "weaker.json", PANDA)
    logs = {
        "first": noisy(panda, PANDA, 1),
        "second": noisy(panda, PANDA, 2),
        "weaker": noisy(record(PANDA, str(folder / "weaker.json"), motion_of(PANDA)), PANDA, 3),
    }
    logs["short"] = logs["second"].between(8.0, 9.0)
    for name, log in logs.items():
        measured = log.qpos_rad, log.qvel_rad_s, log.effort_nm
        command = log.command_rad[-len(log.state_s) :]
        write_motion(folder / name, PANDA, GAP, 1000.0, command, measured)
    return folder


# ---- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", [PANDA, G1], ids=lambda r: r.name)
def test_regressor_times_parameters_is_the_torque(robot):
    rng = np.random.default_rng(0)
    body = rigid_body(robot)
    q, v, a = robot.default_rad + 0.3 * rng.normal(size=(3, 4, robot.n))
    torque = body.torque(q, v, a)
    assert body.regressor(q, v, a) @ body.parameters == pytest.approx(torque, abs=1e-9)
    assert body.gravity(q) == pytest.approx(body.torque(q, 0 * q, 0 * q))
    assert np.abs(body.gravity(q)).max() > 1.0


def test_joints_are_found_by_name():
    body, names = rigid_body(PANDA), PANDA.joint_names
    turned = type(body)(body_path(), names[::-1])
    q = PANDA.default_rad[None] + 0.1
    assert turned.gravity(q[:, ::-1])[:, ::-1] == pytest.approx(body.gravity(q), rel=1e-2)
    with pytest.raises(CalibrationError, match="expected joints elbow in"):
        type(body)(body_path(), ("elbow",))


def body_path():
    from sim2real.robot_data import robot_data_dir

    return robot_data_dir() / PANDA.urdf


def test_bodies_are_physical_whatever_the_numbers():
    rng = np.random.default_rng(1)
    prior = rigid_body(PANDA).parameters
    bodies = Bodies(prior)
    assert bodies.parameters(np.zeros(70)) == pytest.approx(prior, rel=1e-4, abs=1e-5)
    for scale in (0.1, 1.0, 2.0):
        change = scale * rng.normal(size=70)
        assert is_physical(bodies.parameters(change))
        step = 1e-5 * rng.normal(size=70)
        ahead = bodies.parameters(change + step) - bodies.parameters(change)
        assert bodies.jacobian(change) @ step == pytest.approx(ahead, rel=1e-2, abs=1e-7)
    one = prior[:10]
    assert from_pseudo_inertia(pseudo_inertia(one)) == pytest.approx(one)
    assert not is_physical(np.array([1.0, 0, 0, 0, 1.0, 0, 1.0, 0, 0, 3.0]))


# ---- excitation --------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", [PANDA, G1], ids=lambda r: r.name)
def test_motion_is_within_limits_and_starts_and_ends_at_rest(robot, tmp_path):
    motion = motion_of(robot, duration_s=12.0)
    limits = limits_of(robot)
    check_limits(motion, limits)
    ends = motion.at(np.array([0.0, 12.0]))
    assert ends[0] == pytest.approx(np.tile(robot.default_rad, (2, 1)))
    assert np.abs(ends[1:]).max() < 1e-9
    times = np.linspace(0, 12, 24001)
    q, v, a = motion.at(times)
    assert np.abs(np.gradient(q, times, axis=0) - v)[5:-5].max() < 1e-3
    assert np.abs(np.gradient(v, times, axis=0) - a)[5:-5].max() < 2e-2
    assert (np.abs(v).max(axis=0) > 0.1).all()
    motion.save(tmp_path / "m.json", robot.name, {})
    again = read_excitation(tmp_path / "m.json", robot.name)
    assert np.abs(again.at(times)[0] - q).max() < 1e-12
    with pytest.raises(CalibrationError, match="outside"):
        check_limits(motion, replace(limits, velocity_rad_s=limits.velocity_rad_s * 0.01))


def test_more_tries_tell_more():
    body, limits = rigid_body(PANDA), limits_of(PANDA)
    told = [
        excite(body, limits, PANDA.default_rad, ExcitationConfig(tries=tries))[1]["log_det"]
        for tries in (1, 12)
    ]
    assert told[1] > told[0] + 1.0


@pytest.mark.parametrize(
    ("options", "what"),
    [({"duration_s": 5.0}, "at least one period"), ({"share": 1.5}, "share of the limits below 1")],
)
def test_impossible_motions_are_refused(options, what):
    with pytest.raises(CalibrationError, match=what):
        motion_of(PANDA, **options)


def test_damaged_motions_are_refused(tmp_path):
    file = tmp_path / "m.json"
    motion_of(PANDA).save(file, "panda", {})
    with pytest.raises(CalibrationError, match="expected a motion of g1"):
        read_excitation(file, "g1")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "sine_rad": [[1.0]]}))
    with pytest.raises(CalibrationError, match="damaged"):
        read_excitation(file, "panda")


# ---- actuators against truth -------------------------------------------------------------------


def errors(found, truth):
    """Relative errors, and errors over standard deviations, of what the log tells."""
    values = found.values()
    told = {name: values[name] for name in truth if values[name][3]}
    relative = {name: value / truth[name] - 1 for name, (value, _, _, _) in told.items()}
    scaled = {name: (value - truth[name]) / std for name, (value, std, _, _) in told.items()}
    return relative, scaled


def test_friction_strength_and_payload_of_an_arm(panda):
    gap, found = make_gap(PANDA, GAP), solve(noisy(panda, PANDA, 1), PANDA)
    relative, scaled = errors(found, truth_of(PANDA, gap))
    assert len(relative) == 21
    assert max(map(abs, relative.values())) < 0.05
    assert max(map(abs, scaled.values())) < 4.0
    values = found.values()
    assert values["payload.panda_hand"][0] == pytest.approx(gap.payload_kg["panda_hand"], rel=0.02)
    assert found.dead_time_s == pytest.approx(gap.delay_s, abs=1e-3)
    assert 1.0 < found.solution.condition < 1e5


def test_friction_and_strength_of_a_humanoid_on_a_stand():
    motion = motion_of(G1, duration_s=16.0, amplitude_rad=0.8)
    gap, log = make_gap(G1, GAP), noisy(record(G1, GAP, motion), G1, 1)
    found = solve(log, G1)
    truth = truth_of(G1, gap)
    relative, scaled = errors(found, truth)
    assert all(abs(relative[name]) < 0.05 for name in truth if name.startswith("strength"))
    speed = np.sqrt(np.mean(np.gradient(log.qpos_rad, 0.0025, axis=0) ** 2, axis=0))
    values = found.values()
    for joint, v in zip(G1.joint_names, speed, strict=True):
        both = [values[f"{kind}.{joint}"][0] for kind in ("coulomb", "viscous")]
        true = [truth[f"{kind}.{joint}"] for kind in ("coulomb", "viscous")]
        assert both[0] + v * both[1] == pytest.approx(true[0] + v * true[1], rel=0.05)
    assert np.sqrt(np.mean(np.square(list(scaled.values())))) < 1.5
    assert found.unseen_payload  # the load sits on the axis that would have to feel it


def test_intervals_are_neither_too_wide_nor_too_narrow(panda):
    truth = truth_of(PANDA, make_gap(PANDA, GAP))
    scaled = np.array(
        [list(errors(solve(noisy(panda, PANDA, s), PANDA), truth)[1].values()) for s in range(5)]
    )
    assert 0.85 <= np.mean(np.abs(scaled) < 1.96) <= 1.0
    assert 0.5 <= np.sqrt(np.mean(scaled**2)) <= 1.4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_cover_over_fifty_hidden_gaps():
    motion, inside, largest = motion_of(PANDA), [], 0.0
    for seed in range(50):
        gap = f"hidden:{seed}"
        found = solve(noisy(record(PANDA, gap, motion), PANDA, seed), PANDA)
        relative, scaled = errors(found, truth_of(PANDA, make_gap(PANDA, gap)))
        inside += [abs(z) < 1.96 for z in scaled.values()]
        largest = max(largest, *map(abs, relative.values()))
    assert 0.90 <= np.mean(inside) <= 0.99
    assert largest < 0.05


def test_spikes_and_losses_do_no_harm(panda):
    rng = np.random.default_rng(5)
    log = noisy(panda, PANDA, 5)
    effort = log.effort_nm.copy()
    bad = rng.random(len(effort)) < 0.01
    effort[bad] += rng.normal(0, 10.0, (int(bad.sum()), 7))
    kept = rng.random(len(effort)) > 0.1
    kept[5000:5200] = False
    damaged = replace(
        log,
        state_s=log.state_s[kept],
        qpos_rad=log.qpos_rad[kept],
        qvel_rad_s=log.qvel_rad_s[kept],
        effort_nm=effort[kept],
    )
    relative, _ = errors(solve(damaged, PANDA), truth_of(PANDA, make_gap(PANDA, GAP)))
    assert max(map(abs, relative.values())) < 0.1


def test_torque_of_the_commands_where_none_is_measured(panda):
    log = replace(noisy(panda, PANDA, 6), effort_nm=None)
    with pytest.raises(CalibrationError, match="expected measured torques"):
        solve(log, PANDA)
    found = solve(log, PANDA, torque="command")
    relative, scaled = errors(found, truth_of(PANDA, make_gap(PANDA, GAP)))
    large = [f"strength.panda_joint{i}" for i in range(1, 7)]
    assert max(abs(relative[name]) for name in large) < 0.05
    assert np.sqrt(np.mean(np.square(list(scaled.values())))) < 2.0


def test_wrong_bodies_are_corrected_and_stay_physical(tmp_path):
    heavy = {"panda_link3": 1.4, "panda_link4": 0.7, "panda_link6": 1.5}
    Gap(name="heavy", mass=heavy).save(tmp_path / "heavy.json", PANDA)
    ungoverned = replace(PANDA, gravity_compensated=False)
    log = noisy(record(ungoverned, str(tmp_path / "heavy.json"), motion_of(PANDA)), PANDA, 7)
    body = rigid_body(PANDA)
    assert gravity_is_in_torque(log, body)
    config = replace(config_of(PANDA, inertia="all"), gravity_in_torque=True)
    found = calibrate_actuators(log, body, nominal_joints(PANDA), config)
    assert is_physical(found.inertial)
    assert found.solution.combinations < len(found.solution.unknowns)
    assert found.solution.weak
    q = log.qpos_rad[::500]
    true = body.parameters.reshape(7, 10).copy()
    for joint, link in ((3, "panda_link3"), (4, "panda_link4"), (6, "panda_link6")):
        true[joint - 1] *= heavy[link]
    still = np.zeros_like(q)
    regressor = body.regressor(q, still, still)
    before, after = (
        np.abs(regressor @ (x - true.ravel())).max() for x in (body.parameters, found.inertial)
    )
    assert before > 2.0
    assert after < 0.2 * before


def test_gravity_in_the_torques_is_noticed(panda):
    assert not gravity_is_in_torque(panda, rigid_body(PANDA))


def test_joint_that_does_not_move_is_named(panda):
    q = panda.qpos_rad.copy()
    q[:, 2] = q[0, 2]
    with pytest.raises(CalibrationError, match="but panda_joint3 hardly moves"):
        solve(replace(panda, qpos_rad=q), PANDA)


# ---- the command -------------------------------------------------------------------------------


def calibrate(bag, *options):
    return [str(x) for x in ("calibrate", "actuators", bag, "--robot", "panda", *options)]


@pytest.fixture(scope="module")
def stored(panda_bags):
    files = {name: panda_bags / f"stored.{name}" for name in ("json", "gap.json", "html")}
    options = ("--json", files["json"], "--gap", files["gap.json"], "--report", files["html"])
    assert cli.main(calibrate(panda_bags / "first", *options, "--hold-out-s", 4)) == 0
    return files


def test_command_writes_a_result_and_a_gap_that_simulators_take(stored):
    true = make_gap(PANDA, GAP)
    found = load_gap(stored["gap.json"], PANDA)
    for joint in PANDA.joint_names:
        assert found.strength[joint] == pytest.approx(true.strength[joint], rel=0.05)
        assert found.friction_nm[joint] == pytest.approx(true.friction_nm[joint], rel=0.05)
    assert found.payload_kg["panda_hand"] == pytest.approx(true.payload_kg["panda_hand"], rel=0.05)
    times = np.arange(0.0, 2.0, 0.01)
    waves = PANDA.default_rad + 0.2 * np.sin(np.arange(1.5, 5.0, 0.5) * times[:, None])
    none = SensorNoise(position_rad=0.0, velocity_rad_s=0.0, effort=0.0)
    hidden, ours, nominal = (play(PANDA, g, waves, 100.0, none)[0] for g in (true, found, "none"))
    assert np.abs(ours - hidden).max() < 0.1 * np.abs(nominal - hidden).max()
    result = read_result(stored["json"], "actuators")
    held = {n: r.value for n, r in result.residuals.items() if n.startswith("held_out")}
    assert sum(held[f"held_out.calibrated.{j}"] for j in PANDA.joint_names) < 0.4 * sum(
        held[f"held_out.urdf.{j}"] for j in PANDA.joint_names
    )
    assert stored["html"].read_text().count("<svg") >= 4


@pytest.mark.parametrize(
    ("bag", "code", "word"),
    [("second", 0, "holds"), ("weaker", EXIT_DRIFTED, "drifted"), ("short", EXIT_UNTOLD, "cannot")],
)
def test_check_tells_whether_the_robot_is_still_the_same(
    panda_bags, stored, capsys, bag, code, word
):
    assert cli.main(calibrate(panda_bags / bag, "--check", stored["json"])) == code
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith(word)
    assert bag != "weaker" or "strength.panda_joint4" in line


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--json", "o.json", "--payload-link", "elbow"), "expected a link of the robot"),
        (("--json", "o.json", "--hold-out-s", "18"), "of motion, got"),
        ((), "expected a file for the result"),
        (("--json", "o.json", "--robot", "g1", "--stand"), "recorded with panda"),
        (("--json", "o.json", "--robot", "g1"), "whose base is held"),
    ],
)
def test_bad_input_ends_in_one_sentence(panda_bags, tmp_path, monkeypatch, capsys, options, what):
    monkeypatch.chdir(tmp_path)
    assert cli.main(calibrate(panda_bags / "first", *options)) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert what in error[0]
    assert not (tmp_path / "o.json").exists()


def test_excite_and_play_make_a_bag(tmp_path, capsys):
    out, table = tmp_path / "m.json", tmp_path / "m.csv"
    options = ["--duration-s", "10", "--tries", "3", "--csv", str(table), "--csv-rate-hz", "100"]
    assert cli.main(["calibrate", "excite", "--robot", "panda", "--out", str(out), *options]) == 0
    assert "condition number" in capsys.readouterr().out
    assert np.loadtxt(table, delimiter=",", skiprows=1).shape == (1000, 15)
    play_it = ["calibrate", "play", str(out), "--robot", "panda", "--record", str(tmp_path / "bag")]
    assert cli.main([*play_it, "--rate-hz", "200"]) == 0
    assert cli.main(play_it) == cli.EXIT_INPUT
    assert "expected a new path" in capsys.readouterr().err
    other = ["calibrate", "play", str(out), "--robot", "g1", "--record", str(tmp_path / "other")]
    assert cli.main(other) == cli.EXIT_INPUT
    assert "expected a motion of g1" in capsys.readouterr().err


def test_gap_leaves_out_what_is_not_told(panda):
    found = solve(
        replace(noisy(panda, PANDA, 1), command_rad=np.zeros_like(panda.command_rad)), PANDA
    )
    assert found.strength is None
    gap = to_gap(PANDA, found)
    assert gap.strength == {}
    assert gap.delay_s == 0.0
    assert set(gap.friction_nm) == set(PANDA.joint_names)
