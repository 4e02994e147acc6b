"""Batched replay against a bare multi-threaded MuJoCo rollout of the same work."""

from __future__ import annotations

import argparse
import os
import time

import mujoco
import numpy as np
from mujoco import rollout

from policies.interface import RobotSpec
from policies.robots import G1, PANDA
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log
from sim2real.replay.open_loop import play
from sim2real.sim.batch import BatchStepper
from sim2real.sim.stepper import Stepper, default_state, stack


def log_of(robot: RobotSpec, seconds: float) -> Log:
    """A log of small motions around the default pose."""
    t = np.arange(round(seconds * robot.control_rate_hz)) / robot.control_rate_hz
    action = robot.default_rad + 0.03 * np.sin(3.0 * t[:, None] + np.arange(robot.n))
    stepper = Stepper(robot)
    stepper.reset(default_state(robot, action[0]))
    states = []
    for target in action:
        states.append(stepper.state.map(lambda x: x[None]))
        stepper.step(target)
    episode = Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        t_s=t,
        action_rad=action,
        **vars(stack(states).map(lambda x: x[0])),
    )
    return Log.of([episode], robot)


def bench(robot: RobotSpec, windows: int, ticks: int, runs: int) -> str:
    """Ratio of physics steps a second, medians of alternating runs."""
    log = log_of(robot, 4.0)
    rows = np.resize(log.windows(1, ticks), windows)
    ahead = log.ahead(rows, ticks)[:, :-1]
    ours, bare = [], []
    with BatchStepper(robot) as stepper:
        model, layout = stepper.model, stepper.layout
        threads = len(os.sched_getaffinity(0))
        data = [mujoco.MjData(model) for _ in range(threads)]
        start = np.zeros((windows, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        state = log.state.map(lambda x: x[rows])
        layout.write(
            state, start[:, 1 : 1 + model.nq], start[:, 1 + model.nq : 1 + model.nq + model.nv]
        )
        control = np.zeros((windows, ticks, model.nu))
        control[:, :, layout.ctrl] = log.setpoint_rad[ahead]
        control = np.repeat(control, stepper.decimation, axis=1)
        with rollout.Rollout(nthread=threads) as pool:
            for _ in range(runs):
                begin = time.perf_counter()
                play(stepper, log, rows, ticks)
                middle = time.perf_counter()
                pool.rollout(model, data, start, control)
                ours.append(middle - begin)
                bare.append(time.perf_counter() - middle)
    ratio = float(np.median(bare) / np.median(ours))
    steps = windows * ticks * stepper.decimation
    return (
        f"replay, {robot.name}, {windows} windows of {ticks} ticks: {ratio:.2f} x the steps a "
        f"second of a bare rollout on {threads} threads (target >= 0.9; {steps} steps, {runs} runs)"
    )


def main() -> None:
    """Print one line a robot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args, _ = parser.parse_known_args()
    print(bench(G1, 256, 25, args.runs), flush=True)
    print(bench(PANDA, 256, 50, args.runs), flush=True)


if __name__ == "__main__":
    main()
