"""The virtual robot is the same whichever engine plays it."""

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.sim.virtual_robot import VirtualRobot


def play(robot, engine):
    virtual = VirtualRobot(robot, engine=engine, gap="sticky", seed=3)
    try:
        readings = []
        for tick in range(12):
            damped = 4 <= tick < 8  # a legged robot damps, an arm brakes
            virtual.step(None if damped else robot.default_rad + 0.05 * np.sin(0.7 * tick))
            readings.append(virtual.read())
    finally:
        virtual.close()
    return virtual, readings


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_a_worker_plays_the_robot_bit_by_bit_as_this_process_does(robot):
    here, local = play(robot, "mujoco")
    there, remote = play(robot, "mujoco-remote")
    for a, b in zip(local, remote, strict=True):
        for name, value in vars(a).items():
            other = getattr(b, name)
            if name == "base" and value is not None:
                assert all(np.array_equal(x, vars(other)[k]) for k, x in vars(value).items())
            elif isinstance(value, np.ndarray):
                assert np.array_equal(value, other), name
    assert here.min_base_height_m == there.min_base_height_m
    assert here.max_tilt_rad == there.max_tilt_rad


def test_a_gripper_moves_in_mujoco_and_is_refused_elsewhere():
    virtual = VirtualRobot(PANDA)
    virtual.set_gripper(0.03)
    for _ in range(30):
        virtual.step(PANDA.default_rad)
    fingers = virtual.stepper.data.qpos[virtual.stepper.layout.finger_qpos]
    assert fingers == pytest.approx([0.015, 0.015], abs=1e-3)
    other = VirtualRobot(PANDA, engine="mujoco-remote")
    try:
        with pytest.raises(InputError, match="--engine mujoco"):
            other.set_gripper(0.03)
    finally:
        other.close()


def test_an_unknown_engine_gets_a_sentence():
    with pytest.raises(InputError, match="expected a simulator out of"):
        VirtualRobot(PANDA, engine="gazebo")


def test_a_robot_that_fell_is_hung_up_until_it_is_moved():
    virtual = VirtualRobot(G1, seed=3)
    first = virtual.read()
    for _ in range(400):
        virtual.step(None)
    assert virtual.fell
    virtual.stand_up()
    for _ in range(50):
        virtual.step(None)
    again = virtual.read()
    assert again.stamp_ns - first.stamp_ns == 450 * virtual.dt_ns
    assert np.array_equal(again.qpos_rad, first.qpos_rad)
    assert np.array_equal(again.imu_quat_wxyz, first.imu_quat_wxyz)
    assert np.array_equal(again.imu_accel_m_s2, first.imu_accel_m_s2)
    virtual.step(G1.default_rad)
    assert not np.array_equal(virtual.read().qpos_rad, first.qpos_rad)
