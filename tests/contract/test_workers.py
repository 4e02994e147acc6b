"""What every simulator worker must do, whatever engine it wraps.

Each worker runs in the interpreter that ``REALIGN_<ENGINE>_PYTHON`` names, or in this one if its
engine is installed here; else its tests skip.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.errors import FaultError, InputError
from policies.robots import G1, PANDA
from policies.rotation import rotate
from sim2real.sim.batch import BatchStepper
from sim2real.sim.engine import Engine
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.remote import open_engine, open_robot
from sim2real.sim.remote.stepper import RemoteRobot, RemoteStepper
from sim2real.sim.stepper import SimState, Stepper, default_state

DOUBLE = Path(__file__).parent / "isaacgym_double"
# Name of the worker -> simulator, precision of its numbers.
WORKERS = {
    "mujoco": ("mujoco-remote", 0.0),
    "sapien": ("sapien", 1e-6),
    "isaacgym": ("isaacgym", 1e-5),
    "isaacgym_double": ("isaacgym", 1e-6),
}


SLOW = {"isaacgym_double"}  # imports PyTorch in each worker


@pytest.fixture(
    scope="module",
    params=[pytest.param(w, marks=[pytest.mark.slow] if w in SLOW else []) for w in WORKERS],
)
def worker(request):
    """Simulator name, interpreter and precision; skips where the engine is missing."""
    simulator, precision = WORKERS[request.param]
    engine = simulator.removesuffix("-remote")
    python = os.environ.get(f"REALIGN_{engine.upper()}_PYTHON", sys.executable)
    if request.param == "isaacgym_double":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join([str(DOUBLE), *sys.path]))
            yield simulator, sys.executable, precision
        return
    if python == sys.executable and importlib.util.find_spec(engine) is None:
        pytest.skip(
            f"needs {engine}: set REALIGN_{engine.upper()}_PYTHON to an interpreter that has it"
        )
    yield simulator, python, precision


@pytest.fixture(scope="module")
def engines(worker):
    """Batched engines by robot and gap, each started once."""
    simulator, python, _ = worker
    opened: dict[tuple[str, str], Engine] = {}

    def get(robot, gap=None):
        key = robot.name, gap.name if gap else ""
        if key not in opened:
            opened[key] = open_engine(simulator, robot, gap, python=python)
        return opened[key]

    yield get
    for engine in opened.values():
        engine.close()


@pytest.fixture(scope="module")
def robots(worker):
    """The same for one robot that keeps its state."""
    simulator, python, _ = worker
    opened: dict[str, RemoteRobot] = {}

    def get(robot):
        if robot.name not in opened:
            opened[robot.name] = open_robot(simulator, robot, python=python)
        return opened[robot.name]

    yield get
    for one in opened.values():
        one.close()


def some_states(robot, count, seed=0, height_m=None) -> SimState:
    """Random states, arrays (count, ...), near the default pose."""
    rng = np.random.default_rng(seed)
    rest = default_state(robot).map(lambda x: np.repeat(x[None], count, axis=0))
    state = dataclasses.replace(
        rest,
        qpos_rad=rest.qpos_rad + rng.normal(0.0, 0.05, rest.qpos_rad.shape),
        qvel_rad_s=rng.normal(0.0, 0.2, rest.qvel_rad_s.shape),
    )
    if not robot.floating_base:
        return state
    quat = np.array([1.0, 0.0, 0.0, 0.0]) + rng.normal(0.0, 0.1, (count, 4))
    lift = 0.0 if height_m is None else height_m - robot.base_height_m
    return dataclasses.replace(
        state,
        base_pos_m=rest.base_pos_m + np.array([0.3, -0.2, lift]),
        base_quat_wxyz=quat / np.linalg.norm(quat, axis=1, keepdims=True),
        base_lin_vel_m_s=rng.normal(0.0, 0.5, (count, 3)),
        base_ang_vel_rad_s=rng.normal(0.0, 1.0, (count, 3)),
    )


def set_points(robot, count, ticks, seed=1, spread_rad=0.05):
    """Constant set-points around the default pose, (count, ticks, n)."""
    noise = np.random.default_rng(seed).normal(0.0, spread_rad, (count, 1, robot.n))
    return np.repeat(robot.default_rad + noise, ticks, axis=1)


def rows(state, index):
    return state.map(lambda x: x[index])


def assert_states(a, b, **tolerance):
    for name, values in vars(a).items():
        if values is not None:
            np.testing.assert_allclose(values, getattr(b, name), err_msg=name, **tolerance)


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_reset_gives_back_the_state(robots, worker, robot):
    state = rows(some_states(robot, 1, seed=3), 0)
    one = robots(robot)
    one.reset(state)
    assert_states(one.state, state, rtol=0.0, atol=worker[2])
    np.testing.assert_array_equal(one.effort_nm, 0.0)


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_the_robot_weighs_what_its_description_says(engines, robot):
    with BatchStepper(robot) as reference:
        mass = reference.model.body_mass.sum()
    engine = engines(robot)
    assert isinstance(engine, RemoteStepper)
    assert engine.mass_kg == pytest.approx(mass, rel=1e-5)


def test_a_fixed_base_at_rest_stays_put(engines):
    rest = default_state(PANDA).map(lambda x: x[None])
    targets = np.repeat(PANDA.default_rad[None, None], 50, axis=1)
    held = engines(PANDA).step(rest, targets)
    np.testing.assert_allclose(held.qpos_rad[0], targets[0], rtol=0.0, atol=1e-5)
    limp = engines(PANDA, Gap(name="limp", kp={"*": 0.0}, kd={"*": 0.0}))
    free = limp.step(rest, targets + 1.0)
    np.testing.assert_allclose(free.qpos_rad[0], targets[0], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_the_same_call_gives_the_same_numbers(engines, robot):
    engine = engines(robot)
    state, targets = some_states(robot, 5), set_points(robot, 5, 4)
    first = engine.step(state, targets)
    engine.step(some_states(robot, 7, seed=9), set_points(robot, 7, 6, seed=9))
    assert_states(engine.step(state, targets), first, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_a_batch_equals_its_robots_one_by_one(engines, robot):
    engine = engines(robot)
    state, targets = some_states(robot, 4), set_points(robot, 4, 3)
    batch = engine.step(state, targets)
    for i in (2, 0, 3):
        single = engine.step(rows(state, slice(i, i + 1)), targets[i : i + 1])
        assert_states(rows(single, 0), rows(batch, i), rtol=0.0, atol=0.0)


def test_a_batch_can_be_shared_among_processes(engines, worker):
    simulator, python, _ = worker
    state, targets = some_states(PANDA, 5), set_points(PANDA, 5, 3)
    whole = engines(PANDA).step(state, targets)
    engine = simulator.removesuffix("-remote")
    with RemoteStepper(engine, PANDA, python=python, processes=2) as shared:
        assert_states(shared.step(state, targets), whole, rtol=0.0, atol=0.0)
        assert len(shared.pids) == 2
        os.kill(shared.pids[1], signal.SIGKILL)
        with pytest.raises(FaultError, match="ended"):
            shared.step(state, targets)
        with pytest.raises(FaultError, match="closed"):  # not the answer to the call before
            shared.step(rows(state, slice(0, 1)), targets[:1])


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_joints_are_known_by_name(engines, worker, robot):
    simulator, python, precision = worker
    order = np.random.default_rng(5).permutation(robot.n)
    shuffled = dataclasses.replace(robot, joints=tuple(robot.joints[i] for i in order))
    state, targets = some_states(robot, 2, height_m=3.0), set_points(robot, 2, 3)
    straight = engines(robot).step(state, targets)
    mixed = dataclasses.replace(
        state, qpos_rad=state.qpos_rad[:, order], qvel_rad_s=state.qvel_rad_s[:, order]
    )
    with open_engine(simulator, shuffled, python=python) as engine:
        other = engine.step(mixed, targets[:, :, order])
    # Another order of the same sums: rounding may differ.
    np.testing.assert_allclose(
        other.qpos_rad, straight.qpos_rad[..., order], rtol=0.0, atol=1e-9 + precision
    )


def test_torques_stay_within_the_limits(robots):
    one = robots(PANDA)
    one.reset(default_state(PANDA))
    far = PANDA.default_rad + np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    one.step(far)
    limit = PANDA.effort_limit_nm
    np.testing.assert_allclose(np.abs(one.effort_nm), limit, rtol=1e-6)
    np.testing.assert_array_equal(np.sign(one.effort_nm), np.sign(far - PANDA.default_rad))
    moved = np.abs(one.state.qpos_rad - PANDA.default_rad).max()
    assert 1e-4 < moved < 0.1


def test_a_weaker_torque_limit_moves_the_arm_less(engines):
    rest = default_state(PANDA).map(lambda x: x[None])
    targets = np.repeat(PANDA.default_rad[None, None] + 0.5, 5, axis=1)
    strong = engines(PANDA).step(rest, targets).qpos_rad[0, -1] - PANDA.default_rad
    gap = Gap(name="tired", torque_limit={"*": 0.2})
    weak = engines(PANDA, gap).step(rest, targets).qpos_rad[0, -1] - PANDA.default_rad
    assert 0.01 < np.linalg.norm(weak) < 0.5 * np.linalg.norm(strong)


def test_a_base_in_the_air_falls_as_newton_says(engines):
    rest = default_state(G1).map(lambda x: x[None])
    high = dataclasses.replace(rest, base_pos_m=np.array([[1.0, 2.0, 5.0]]))
    targets = np.repeat(G1.default_rad[None, None], 20, axis=1)
    fall = engines(G1).step(high, targets)
    t_s = np.arange(1, 21) / G1.control_rate_hz
    drop = -9.81 * t_s * (t_s + G1.physics_dt_s) / 2.0  # velocity first, then position
    np.testing.assert_allclose(fall.base_pos_m[0, :, 2] - 5.0, drop, rtol=0.0, atol=2e-3)
    np.testing.assert_allclose(fall.base_pos_m[0, :, :2], [[1.0, 2.0]] * 20, atol=2e-3)
    np.testing.assert_allclose(fall.base_lin_vel_m_s[0, :, 2], -9.81 * t_s, atol=2e-2)


def test_velocities_are_those_of_the_base_frame(engines):
    """A spinning base: its origin is off the centre of mass, its rates are in its own frame."""
    state = some_states(G1, 3, seed=4, height_m=5.0)
    ang = np.array([[3.0, 0.0, 0.0], [0.0, -3.0, 0.0], [1.0, 2.0, 2.0]])
    state = dataclasses.replace(state, base_ang_vel_rad_s=ang)
    targets = np.repeat(state.qpos_rad[:, None], 5, axis=1)
    end = engines(G1).step(state, targets)
    with BatchStepper(G1) as mujoco:
        reference = mujoco.step(state, targets)
    np.testing.assert_allclose(end.base_pos_m, reference.base_pos_m, atol=2e-3)
    np.testing.assert_allclose(end.base_quat_wxyz, reference.base_quat_wxyz, atol=5e-3)
    np.testing.assert_allclose(end.base_lin_vel_m_s, reference.base_lin_vel_m_s, atol=0.05)
    np.testing.assert_allclose(end.base_ang_vel_rad_s, reference.base_ang_vel_rad_s, atol=0.1)
    world = rotate(end.base_quat_wxyz[:, -1], end.base_ang_vel_rad_s[:, -1])
    before = rotate(state.base_quat_wxyz, state.base_ang_vel_rad_s)
    np.testing.assert_allclose(world, before, atol=0.8)


@pytest.mark.parametrize("gap", ["none", "worn", "hidden:3", "payload"])
def test_the_arm_moves_as_in_mujoco(engines, worker, gap):
    gap = make_gap(PANDA, gap)
    if worker[0] == "isaacgym" and gap.payload_kg:
        with pytest.raises(InputError, match="use mujoco or sapien"):
            engines(PANDA, gap)
        return
    state, targets = some_states(PANDA, 2), set_points(PANDA, 2, 100, spread_rad=0.2)
    sent = PANDA.default_rad + np.zeros((2, 2, 1))
    delta = 0.02 * np.sin(np.arange(100) / 10.0)[None, :, None] + np.zeros((2, 100, PANDA.n))
    engine = engines(PANDA, gap)
    with BatchStepper(PANDA, gap) as mujoco:
        assert engine.delay_ticks == mujoco.delay_ticks
        reference = mujoco.step(state, targets, sent, delta).qpos_rad
    qpos = engine.step(state, targets, sent, delta).qpos_rad
    assert [rmse(qpos[:, :k], reference[:, :k]) < 2e-3 for k in (24, 50, 100)] == [True] * 3


def test_the_legged_robot_moves_as_in_mujoco(engines):
    state = default_state(G1).map(lambda x: np.repeat(x[None], 2, axis=0))
    targets = set_points(G1, 2, 50, spread_rad=0.03)
    engine = engines(G1)
    with BatchStepper(G1) as mujoco:
        reference = mujoco.step(state, targets)
    end = engine.step(state, targets)
    errors = [rmse(end.qpos_rad[:, :k], reference.qpos_rad[:, :k]) for k in (12, 25, 50)]
    assert (np.array(errors) < [0.006, 0.012, 0.03]).all(), errors


def test_mujoco_in_a_worker_is_mujoco(engines, robots, worker):
    simulator, python, _ = worker
    if simulator != "mujoco-remote" or python != sys.executable:
        pytest.skip("for the same version of MuJoCo in this interpreter")
    for robot in (G1, PANDA):
        gap = make_gap(robot, "hidden:3")
        state, targets = some_states(robot, 3), set_points(robot, 3, 20)
        with BatchStepper(robot, gap) as batch:
            reference = batch.step(state, targets)
        assert_states(engines(robot, gap).step(state, targets), reference, rtol=0.0, atol=0.0)
        one, local = robots(robot), Stepper(robot)
        one.reset(rows(state, 0))
        local.reset(rows(state, 0))
        for k in range(5):
            one.step(targets[0, k])
            local.step(targets[0, k])
        assert_states(one.state, local.state, rtol=0.0, atol=0.0)
        np.testing.assert_array_equal(one.effort_nm, local.effort_nm)


def test_a_robot_that_keeps_its_state_goes_on_where_it_was(robots, engines, worker):
    state, targets = some_states(PANDA, 1), set_points(PANDA, 1, 6)
    one = robots(PANDA)
    one.reset(rows(state, 0))
    for k in range(6):
        one.step(targets[0, k])
    end = rows(engines(PANDA).step(state, targets), (0, -1))
    assert_states(one.state, end, rtol=0.0, atol=10.0 * worker[2] + 1e-9)


def test_bad_calls_are_one_sentence(engines, robots):
    engine = engines(G1)
    state, targets = some_states(G1, 2), set_points(G1, 2, 1)
    with pytest.raises(InputError, match="expected set-points of shape"):
        engine.step(state, targets[..., :5])
    with pytest.raises(InputError, match="one row for each robot"):
        engine.step(rows(state, slice(0, 1)), targets)
    with pytest.raises(InputError, match="finite states"):
        engine.step(dataclasses.replace(state, qpos_rad=state.qpos_rad * np.nan), targets)
    with pytest.raises(InputError, match="finite set-points"):
        engine.step(state, targets * np.inf)
    with pytest.raises(InputError, match="base pose"):
        engine.step(SimState(qpos_rad=state.qpos_rad, qvel_rad_s=state.qvel_rad_s), targets)
    with pytest.raises(InputError, match="finite joint set-points"):
        robots(G1).step(np.full(G1.n, np.nan))
    engine.step(state, targets)  # it still works after all of these


def test_a_urdf_that_cannot_be_built_is_one_sentence(worker):
    simulator, python, _ = worker
    ghost = dataclasses.replace(PANDA.joints[0], name="no_such_joint")
    robot = dataclasses.replace(PANDA, joints=(*PANDA.joints[:-1], ghost))
    with pytest.raises(InputError, match="no_such_joint"):
        open_engine(simulator, robot, python=python)


def test_rigid_contacts_refuse_a_soft_floor(worker):
    simulator, python, _ = worker
    if simulator == "mujoco-remote":
        pytest.skip("MuJoCo has soft contacts")
    with pytest.raises(InputError, match="without floor_softness_s"):
        open_engine(simulator, G1, make_gap(G1, "worn"), python=python)


def test_a_killed_worker_is_a_fault(worker):
    simulator, python, _ = worker
    with open_engine(simulator, PANDA, python=python) as engine:
        state, targets = some_states(PANDA, 1), set_points(PANDA, 1, 1)
        engine.step(state, targets)
        os.kill(engine.pids[0], signal.SIGKILL)
        with pytest.raises(FaultError, match="ended"):
            engine.step(state, targets)
