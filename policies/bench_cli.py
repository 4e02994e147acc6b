"""``realign policy bench``: how long a policy takes for an answer on this machine."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from policies.checkpoint import inspect, load_policy
from policies.diffusion.checkpoint import load_chunk_model
from policies.diffusion.interface import ChunkModel, blank_window
from policies.errors import InputError
from policies.evaluation.metrics import percentiles
from policies.interface import Observation, Policy, RobotSpec
from policies.robots import get_robot
from policies.runtime.planning import Connected, PlanningPolicy

_WARM_UP = 5
"""The first answers of a process are slow: caches, lazy allocation."""


def policy_bench(
    policy: Path,
    *,
    answers: int = 200,
    instruction: str | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> None:
    """Time a policy alone: no robot, no graph, one observation after the other.

    Args:
        policy: checkpoint directory.
        answers: how many answers to time, after a few that are not counted.
        instruction: what a policy that reads instructions is told; default: one that it knows.
        overwrite: replace the JSON file.
        json: file for machine-readable results.

    Raises:
        InputError: the checkpoint is damaged, or there is nothing to time.
    """
    if answers < 1:
        raise InputError(f"expected at least 1 answer to time, got {answers}; give --answers")
    if json is not None and json.exists() and not overwrite:
        raise InputError(
            f"expected a new path, but {json} exists; choose another or give --overwrite"
        )
    info = inspect(policy)
    robot = get_robot(info["robot"]) if info["robot"] else None
    loaded = load_chunk_model(policy) if robot is None else load_policy(policy, robot)
    model = loaded.model if isinstance(loaded, PlanningPolicy) else loaded
    try:
        ask, actions = _asked(model, robot, instruction or next(iter(_known(info)), ""))
        with tqdm(total=answers, desc="answers", unit="", disable=None) as bar:
            times_ms = _time(ask, answers, bar)
    finally:
        if isinstance(model, Connected):
            model.close()
    every_ms = 1e3 * actions / info["rate_hz"]
    content = {
        "policy": info["name"],
        "answers": answers,
        "time_per_answer_ms": percentiles(times_ms),
        "asked_every_ms": every_ms,
    }
    print(summary(content))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(jsonlib.dumps(content, indent=1) + "\n", encoding="utf-8")


def summary(content: dict[str, Any]) -> str:
    """One line for people of what the JSON file gets."""
    time, every_ms = content["time_per_answer_ms"], content["asked_every_ms"]
    fits = (
        "in time"
        if time["p99"] < every_ms
        else "too slow to wait for: realign run --executor async goes on meanwhile"
    )
    return (
        f"{content['policy']}: an answer in p50 {time['p50']:.2f}, p95 {time['p95']:.2f}, p99 "
        f"{time['p99']:.2f} ms ({content['answers']} timed), asked every {every_ms:g} ms; {fits}"
    )


def _known(info: dict[str, Any]) -> list[str]:
    """Instructions that a policy needs no text encoder for."""
    told = info.get("instructions") or [info.get("instruction")]
    return [text for text in told if text]


def _asked(
    model: ChunkModel | Policy, robot: RobotSpec | None, instruction: str
) -> tuple[Callable[[], object], int]:
    """What asks the policy once, and how many steps one answer is for."""
    if isinstance(model, ChunkModel):
        window = blank_window(model.spec)
        window = replace(window, instructions=(instruction,) if instruction else ())
        steps = model.spec.action_horizon
        model.reset(0)
        return lambda: model.sample(window, executed=steps), steps
    assert robot is not None  # a policy of no robot is a model
    standing = _standing(robot, np.array(model.spec.start_pose_rad))
    period_ns = round(1e9 / model.spec.rate_hz)
    model.reset(0)

    def act() -> object:
        standing.stamp_ns += period_ns
        return model.act(standing)

    return act, 1


def _standing(robot: RobotSpec, pose_rad: np.ndarray) -> Observation:
    """What a robot sees that stands upright, and is asked to stay."""
    return Observation(
        stamp_ns=0,
        qpos_rad=pose_rad,
        qvel_rad_s=np.zeros(robot.n),
        effort_nm=np.zeros(robot.n),
        base_quat_wxyz=np.array([1.0, 0.0, 0.0, 0.0]) if robot.floating_base else None,
        base_ang_vel_rad_s=np.zeros(3) if robot.floating_base else None,
        goal=np.zeros(3),
    )


def _time(ask: Callable[[], object], answers: int, bar: tqdm[Any]) -> list[float]:
    """Times of answers, ms."""
    times = []
    for i in range(_WARM_UP + answers):
        start = perf_counter()
        ask()
        if i >= _WARM_UP:
            times.append(1e3 * (perf_counter() - start))
            bar.update()
    return times
