"""How well policies track a motion on a robot that training never saw, with intervals.

Each run goes tick by tick through the very policy object that a real run uses, one robot at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from policies.interface import Float, Policy, RobotSpec
from sim2real.finetune.reference import Reference
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState
from sim2real.tasks.closed_loop import Rollout, roll_out

FAR_M = 0.5
"""Mean distance of the bodies from the motion beyond which a run has failed (as in ASAP), m."""

_Z95 = 1.959964
_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One policy over several runs; a failed run counts until it failed.

    Attributes:
        success: for each run, True if it neither fell nor left the motion.
        seconds: time until the end or the failure, (runs,), s.
        e_mpjpe_mm: mean body error relative to the root, (runs,), mm.
        e_g_mpjpe_mm: mean body error in the world, (runs,), mm.
    """

    success: tuple[bool, ...]
    seconds: Float
    e_mpjpe_mm: Float
    e_g_mpjpe_mm: Float

    def to_json(self) -> dict[str, Any]:
        """Means with 95 % intervals: Wilson's for the share, bootstrap over runs for the rest."""
        runs, good = len(self.success), sum(self.success)
        out: dict[str, Any] = {
            "runs": runs,
            "successes": good,
            "success": good / runs,
            "success_ci95": list(wilson(good, runs)),
            "seconds": float(self.seconds.mean()),
        }
        for name, values in (("E_mpjpe_mm", self.e_mpjpe_mm), ("E_g_mpjpe_mm", self.e_g_mpjpe_mm)):
            out[name] = float(values.mean())
            out[f"{name}_ci95"] = list(bootstrap(values))
        return out


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z2 = successes / runs, _Z95**2
    middle = share + z2 / (2 * runs)
    half = _Z95 * math.sqrt(share * (1.0 - share) / runs + z2 / (4 * runs**2))
    scale = 1.0 + z2 / runs
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def bootstrap(values: Float, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of values (runs,)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def judge(
    policy: Policy,
    robot: RobotSpec,
    reference: Reference,
    *,
    gap: Gap | None,
    seeds: Sequence[int],
    progress: Callable[[], None] | None = None,
) -> Verdict:
    """Run a policy once for each seed and compare with the motion.

    Args:
        policy: the policy, as :func:`policies.checkpoint.load_policy` gives it.
        robot: the robot.
        reference: the motion.
        gap: dynamics of the robot that it is judged on.
        seeds: one run each; the seed draws the start pose.
        progress: called after each run.
    """
    bodies = BodyPositions(robot)
    rows = []
    for seed in seeds:
        run = roll_out(policy, robot, gap=gap, seed=seed)
        rows.append(_compare(run, reference, bodies))
        if progress:
            progress()
    success, seconds, local, world = zip(*rows, strict=True)
    return Verdict(
        success=tuple(success),
        seconds=np.array(seconds),
        e_mpjpe_mm=np.array(local),
        e_g_mpjpe_mm=np.array(world),
    )


def _compare(
    run: Rollout, reference: Reference, bodies: BodyPositions
) -> tuple[bool, float, float, float]:
    """Success, time until the end or the failure, E_mpjpe and E_g-mpjpe of one run."""
    episode = run.episode
    names = [f.name for f in fields(SimState) if getattr(episode, f.name) is not None]
    body_m = bodies(SimState(**{name: getattr(episode, name) for name in names}))
    frames = min(len(episode), len(reference))
    apart = body_m[:frames] - reference.body_pos_m[:frames]
    relative = apart - apart[:, reference.root, None]
    world = np.linalg.norm(apart, axis=-1).mean(axis=-1)
    far = np.flatnonzero(world > FAR_M)
    last = int(far[0]) if len(far) else frames - 1
    # Frame 0 is the start pose, which no policy has chosen.
    counted = slice(1, last + 1) if last else slice(0, 1)
    local = np.linalg.norm(relative, axis=-1).mean(axis=-1)
    return (
        run.completed and not len(far),
        float(episode.t_s[last]),
        1e3 * float(local[counted].mean()),
        1e3 * float(world[counted].mean()),
    )


def table(verdicts: Mapping[str, Verdict]) -> list[tuple[str, ...]]:
    """Rows of text: policy, success, E_mpjpe and E_g-mpjpe with 95 % intervals."""
    rows = []
    for name, verdict in verdicts.items():
        facts = verdict.to_json()
        low, high = facts["success_ci95"]
        cells = [f"{facts['successes']}/{facts['runs']} [{100 * low:.0f}, {100 * high:.0f}] %"]
        for key in ("E_mpjpe_mm", "E_g_mpjpe_mm"):
            near, far = facts[f"{key}_ci95"]
            cells.append(f"{facts[key]:.1f} [{near:.1f}, {far:.1f}]")
        rows.append((name, *cells, f"{facts['seconds']:.2f}"))
    return rows


HEADER = ("policy", "success", "E_mpjpe, mm", "E_g-mpjpe, mm", "upright, s")
