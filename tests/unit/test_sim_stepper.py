"""The simulator: the PD loop in the model, delays, gaps, the virtual robot."""

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA, ROBOTS, get_robot
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.model import build_model
from sim2real.sim.stepper import Stepper, decimation, default_state
from sim2real.sim.virtual_robot import START_NS, VirtualRobot, parse_faults


def test_g1_is_the_robot_that_the_design_describes():
    model = build_model(G1)
    assert (model.nq, model.nv, model.nu) == (36, 35, 29)
    assert model.body_subtreemass[0] == pytest.approx(33.3, abs=0.1)
    assert [model.actuator(i).name for i in range(29)] == list(G1.joint_names)


def test_panda_weighs_what_the_urdf_says():
    assert build_model(PANDA).body_subtreemass[0] == pytest.approx(17.5, abs=0.2)


@pytest.mark.parametrize("robot", [G1, PANDA])
def test_actuator_is_the_clipped_pd_law(robot):
    stepper = Stepper(robot)
    rng = np.random.default_rng(0)
    for _ in range(20):
        before = stepper.state
        target = before.qpos_rad + rng.normal(0.0, 0.3, robot.n)
        torque = robot.kp_nm_rad * (target - before.qpos_rad)
        torque -= robot.kd_nm_s_rad * before.qvel_rad_s
        wanted = np.clip(torque, -robot.effort_limit_nm, robot.effort_limit_nm)
        stepper.decimation = 1
        stepper.step(target)
        assert np.allclose(stepper.effort_nm, wanted, rtol=1e-9, atol=1e-9)


def test_damping_is_minus_kd_qdot():
    stepper = Stepper(PANDA)
    stepper.step(PANDA.default_rad + 0.003)
    velocity = stepper.state.qvel_rad_s
    stepper.decimation = 1
    stepper.step(PANDA.default_rad, damp=True)
    assert np.allclose(stepper.effort_nm, -PANDA.kd_nm_s_rad * velocity)


def test_arm_with_gravity_compensation_stays_where_it_is():
    stepper = Stepper(PANDA)
    for _ in range(100):
        stepper.step(PANDA.default_rad)
    assert np.abs(stepper.state.qpos_rad - PANDA.default_rad).max() < 1e-6


def test_payload_is_not_known_to_the_gravity_compensation():
    stepper = Stepper(PANDA, make_gap(PANDA, "payload"))
    for _ in range(200):
        stepper.step(PANDA.default_rad)
    assert np.abs(stepper.state.qpos_rad - PANDA.default_rad).max() > 1e-3


@pytest.mark.parametrize("delay_s", [0.003, 0.01, 0.025])
def test_delay_shifts_the_motion_by_exactly_that_time(delay_s):
    direct, late = Stepper(PANDA), Stepper(PANDA, Gap(delay_s=delay_s))
    direct.decimation = late.decimation = 1
    target = PANDA.default_rad + 0.05
    steps = round(delay_s / PANDA.physics_dt_s)
    for _ in range(steps):
        late.step(target)
    assert np.abs(late.state.qvel_rad_s).max() < 1e-9
    for _ in range(30):
        direct.step(target)
        late.step(target)
    assert np.allclose(direct.state.qpos_rad, late.state.qpos_rad, atol=1e-9)


def test_batch_equals_single_stepper():
    rng = np.random.default_rng(1)
    targets = PANDA.default_rad + rng.normal(0.0, 0.05, (3, PANDA.n))
    single = Stepper(PANDA)
    with BatchStepper(PANDA) as batch:
        state = default_state(PANDA).map(lambda x: np.repeat(x[None], 2, axis=0))
        out = batch.step(state, np.repeat(targets[None], 2, axis=0))
    for k, target in enumerate(targets):
        single.step(target)
        assert np.allclose(out.qpos_rad[:, k], single.state.qpos_rad, atol=1e-12)


def test_hidden_gap_is_drawn_from_its_seed():
    assert make_gap(PANDA, "hidden:7") == make_gap(PANDA, "hidden:7")
    assert make_gap(PANDA, "hidden:7") != make_gap(PANDA, "hidden:8")


@pytest.mark.parametrize("name", ["nonsense", "hidden:x", "legs_weak"])
def test_unknown_gap_is_refused(name):
    with pytest.raises(InputError, match="expected a gap"):
        make_gap(PANDA, name)


def test_unknown_robot_is_refused():
    with pytest.raises(InputError, match=r"'go2', 'panda'.*got 'atlas'"):
        get_robot("atlas")


@pytest.mark.parametrize("rate", [0.0, 333.0, 5000.0])
def test_rate_that_is_not_a_whole_number_of_steps_is_refused(rate):
    with pytest.raises(InputError, match="expected a rate"):
        decimation(PANDA, rate)


@pytest.mark.parametrize("text", ["nan_state@x", "explode@1", "drop_imu@1:y"])
def test_bad_fault_is_refused(text):
    with pytest.raises(InputError, match="expected a fault"):
        parse_faults(text)


def test_sensor_faults_come_and_go():
    robot = VirtualRobot(
        G1, rate_hz=50.0, faults=parse_faults("nan_state@0.1:0.04, drop_imu@0.2, drop_state@0.3")
    )
    seen = {}
    for _ in range(18):
        seen[robot.steps] = robot.read()
        robot.step(G1.default_rad)
    assert np.isfinite(seen[4].qpos_rad).all()
    assert np.isnan(seen[5].qpos_rad).all()
    assert np.isnan(seen[6].qpos_rad).all()
    assert np.isfinite(seen[7].qpos_rad).all()
    assert seen[9].imu_quat_wxyz is not None
    assert seen[10].imu_quat_wxyz is None
    assert seen[15].qpos_rad is None
    assert seen[1].stamp_ns == START_NS + 20_000_000


def test_imu_at_rest_feels_gravity_upwards():
    robot = VirtualRobot(G1, rate_hz=50.0)
    assert np.allclose(robot.read().imu_accel_m_s2, [0.0, 0.0, 9.81], atol=1e-6)


def test_stopped_arm_brakes_and_stopped_humanoid_falls():
    arm = VirtualRobot(PANDA)
    pose = arm.read().qpos_rad
    humanoid = VirtualRobot(G1, rate_hz=50.0)
    for _ in range(150):
        arm.step(None)
        humanoid.step(None)
    assert np.abs(arm.read().qpos_rad - pose).max() < 1e-3
    assert not arm.fell
    assert humanoid.fell


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=ROBOTS)
def test_every_robot_steps_at_the_rates_of_its_driver(robot):
    for rate in (robot.control_rate_hz, robot.state_rate_hz):
        assert decimation(robot, rate) * robot.physics_dt_s == pytest.approx(1.0 / rate)
