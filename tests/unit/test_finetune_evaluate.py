"""Verdicts: intervals, what counts as success, and up to when errors count."""

from dataclasses import replace

import numpy as np
import pytest

from policies.interface import ActionChunk, PolicySpec
from policies.robots import G1, PANDA
from sim2real.finetune.evaluate import (
    HEADER,
    Verdict,
    _compare,
    bootstrap,
    common_frames,
    judge,
    table,
    wilson,
)
from sim2real.finetune.reference import Reference
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState, default_state
from sim2real.tasks.closed_loop import roll_out


class Hold:
    """Commands the default pose plus an offset."""

    def __init__(self, robot, offset=0.0, duration_s=0.4):
        self.pose = robot.default_rad + offset
        self.spec = PolicySpec(
            name="hold",
            robot=robot.name,
            robot_fingerprint=robot.fingerprint,
            rate_hz=robot.control_rate_hz,
            action_dt_s=1.0 / robot.control_rate_hz,
            horizon=1,
            duration_s=duration_s,
            start_pose_rad=tuple(robot.default_rad),
            needs=(),
            sha256="",
        )

    def reset(self, seed):
        pass

    def act(self, observation):
        return ActionChunk(stamp_ns=0, dt_s=0.01, positions_rad=self.pose[None].copy())


def own_run(robot, policy):
    episode = roll_out(policy, robot, pose_noise_rad=0.0).episode
    names = [n for n in SimState.__dataclass_fields__ if getattr(episode, n) is not None]
    return Reference.of("own", robot, SimState(**{n: getattr(episode, n) for n in names}))


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(20, 20, 0.8389, 1.0), (0, 20, 0.0, 0.1611), (10, 20, 0.2993, 0.7007), (3, 5, 0.2307, 0.8824)],
)
def test_wilson_interval(successes, runs, low, high):
    assert wilson(successes, runs) == pytest.approx((low, high), abs=2e-4)


def test_bootstrap_interval_holds_the_mean_as_often_as_stated():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(rng.normal(3.0, 1.0, 40))
        hits += low < 3.0 < high
    assert 0.88 < hits / 200 < 0.99


def test_a_policy_is_compared_with_its_motion_seed_by_seed():
    policy = Hold(PANDA, 0.05)
    reference = own_run(PANDA, policy)
    done = []
    near = judge(
        policy, PANDA, reference, gap=None, seeds=range(3), progress=lambda: done.append(1)
    )
    spring = Gap(name="spring", spring_nm_rad={"*": 200.0}, strength={"*": 0.3})
    far = judge(policy, PANDA, reference, gap=spring, seeds=range(3))
    assert len(done) == 3
    assert near.success == far.success == (True,) * 3
    assert [len(run) for run in near.local_mm] == [40] * 3
    local, world = near.means()
    assert (local > 0.0).all()  # the seeds draw other starts
    assert len(set(local)) == 3
    assert (far.means()[0] > 1.3 * local).all()
    # A base that is fixed to the world leaves nothing to tell the two apart.
    np.testing.assert_allclose(local, world)
    again = judge(policy, PANDA, reference, gap=None, seeds=[1])
    assert again.means()[0][0] == local[1]


def test_errors_count_until_the_run_left_the_motion():
    run = roll_out(Hold(G1), G1, pose_noise_rad=0.0)
    reference = own_run(G1, Hold(G1))
    bodies = BodyPositions(G1)
    success, local, world = _compare(run, reference, bodies)
    assert success
    assert len(local) == len(world) == 20
    assert max(local.max(), world.max()) < 1e-9
    shift = np.zeros((21, 3))
    shift[5:, 0], shift[10:, 0] = 0.1, 0.6
    moved = replace(run.episode, base_pos_m=run.episode.base_pos_m + shift)
    success, local, world = _compare(replace(run, episode=moved), reference, bodies)
    assert not success
    np.testing.assert_allclose(local, np.zeros(10), atol=1e-9)
    np.testing.assert_allclose(world, [0.0] * 4 + [100.0] * 5 + [600.0], atol=1e-9)


def test_a_fall_is_no_success():
    fall = roll_out(Hold(G1, np.where(np.arange(29) == 3, 2.0, 0.0), duration_s=3.0), G1)
    assert fall.fell
    state = default_state(G1).map(lambda x: np.tile(x, (151, 1)))
    reference = Reference.of("standing", G1, state)
    success, local, _ = _compare(fall, reference, BodyPositions(G1))
    assert not success
    assert len(local) <= len(fall.episode) - 1 < 150


def verdict(success, *runs):
    local = tuple(np.array(run, dtype=float) for run in runs)
    return Verdict(
        success=success, rate_hz=2.0, local_mm=local, world_mm=tuple(2.0 * run for run in local)
    )


def test_errors_are_compared_over_the_frames_that_all_reached():
    falls = verdict((False, True), [10.0], [10.0, 20.0])
    stays = verdict((True, True), [8.0, 30.0], [6.0, 30.0])
    frames = common_frames([falls, stays])
    assert frames == [1, 2]
    assert falls.means()[0].tolist() == [10.0, 15.0]
    assert stays.means()[0].tolist() == [19.0, 18.0]  # punished for the part that it mastered
    assert stays.means(frames)[0].tolist() == [8.0, 18.0]
    facts = stays.to_json(frames)
    assert (facts["E_mpjpe_mm"], facts["E_mpjpe_common_mm"], facts["E_g_mpjpe_mm"]) == (
        18.5,
        13,
        37,
    )
    assert "E_mpjpe_common_mm" not in stays.to_json()


def test_table_and_json_say_the_same():
    seen = verdict((True, False, True, True), [10.0, 12.0], [30.0], [11.0, 11.0], [12.0, 14.0])
    facts = seen.to_json()
    assert (facts["successes"], facts["runs"], facts["success"]) == (3, 4, 0.75)
    assert facts["seconds"] == 1.75 / 2.0
    assert facts["E_mpjpe_mm"] == 16.25
    low, high = facts["E_mpjpe_mm_ci95"]
    assert 11.0 <= low < 16.25 < high <= 30.0
    (row,) = table({"vanilla": seen})
    assert len(row) == len(HEADER)
    assert row[:3] == ("vanilla", "3/4 [30, 95] %", "0.88")
    assert row[3] == row[5] == f"16.2 [{low:.1f}, {high:.1f}]"
