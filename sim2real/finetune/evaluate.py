"""How well policies track a motion on a robot that training never saw, with intervals.

Each run goes tick by tick through the very policy object that a real run uses, one robot at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from policies.evaluation.metrics import wilson
from policies.interface import Float, Policy, RobotSpec
from sim2real.finetune.reference import Reference
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState
from sim2real.tasks.closed_loop import Rollout, roll_out

FAR_M = 0.5
"""Mean distance of the bodies from the motion beyond which a run has failed (as in ASAP), m."""

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One policy over several runs; a failed run counts until it failed.

    Attributes:
        success: for each run, True if it neither fell nor left the motion.
        rate_hz: frames per second, Hz.
        local_mm: body error relative to the root in each frame after the start, one array a run.
        world_mm: body error in the world, likewise.
    """

    success: tuple[bool, ...]
    rate_hz: float
    local_mm: tuple[Float, ...]
    world_mm: tuple[Float, ...]

    def means(self, frames: Sequence[int] | None = None) -> tuple[Float, Float]:
        """E_mpjpe and E_g-mpjpe of each run, (runs,), mm, over its first ``frames`` or all."""
        counts = frames or [len(run) for run in self.local_mm]
        local, world = (
            np.array([run[:count].mean() for run, count in zip(runs, counts, strict=True)])
            for runs in (self.local_mm, self.world_mm)
        )
        return local, world

    def to_json(self, frames: Sequence[int] | None = None) -> dict[str, Any]:
        """Means with 95 % intervals: Wilson's for the share, bootstrap over runs for the rest.

        Args:
            frames: frames of each run that all policies reached, see :func:`common_frames`; errors
                over these come as ``E_mpjpe_common_mm``.
        """
        runs, good = len(self.success), sum(self.success)
        out: dict[str, Any] = {
            "runs": runs,
            "successes": good,
            "success": good / runs,
            "success_ci95": list(wilson(good, runs)),
            "seconds": float(np.mean([len(run) for run in self.local_mm]) / self.rate_hz),
        }
        local, world = self.means()
        errors = {"E_mpjpe_mm": local, "E_g_mpjpe_mm": world}
        if frames is not None:
            errors["E_mpjpe_common_mm"] = self.means(frames)[0]
        for name, values in errors.items():
            out[name] = float(values.mean())
            out[f"{name}_ci95"] = list(bootstrap(values))
        return out


def common_frames(verdicts: Iterable[Verdict]) -> list[int]:
    """Frames that every policy reached, run by run: errors over these compare like with like.

    A policy that falls early is spared the hard part of the motion.
    """
    lengths = ([len(run) for run in verdict.local_mm] for verdict in verdicts)
    return [min(counts) for counts in zip(*lengths, strict=True)]


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
    success, local, world = [], [], []
    for seed in seeds:
        run = roll_out(policy, robot, gap=gap, seed=seed)
        good, relative, absolute = _compare(run, reference, bodies)
        success.append(good)
        local.append(relative)
        world.append(absolute)
        if progress:
            progress()
    return Verdict(
        success=tuple(success),
        rate_hz=policy.spec.rate_hz,
        local_mm=tuple(local),
        world_mm=tuple(world),
    )


def _compare(
    run: Rollout, reference: Reference, bodies: BodyPositions
) -> tuple[bool, Float, Float]:
    """Success, and the errors of each frame until the end or the failure, mm."""
    episode = run.episode
    names = [f.name for f in fields(SimState) if getattr(episode, f.name) is not None]
    body_m = bodies(SimState(**{name: getattr(episode, name) for name in names}))
    frames = min(len(episode), len(reference))
    apart = body_m[:frames] - reference.body_pos_m[:frames]
    relative = apart - apart[:, reference.root, None]
    # Frame 0 is the start pose, which no policy has chosen.
    local, world = (1e3 * np.linalg.norm(x, axis=-1).mean(axis=-1)[1:] for x in (relative, apart))
    far = np.flatnonzero(world > 1e3 * FAR_M)
    end = int(far[0]) + 1 if len(far) else len(world)
    return run.completed and not len(far), local[:end], world[:end]


def table(verdicts: Mapping[str, Verdict]) -> list[tuple[str, ...]]:
    """Rows of text under :data:`HEADER`: success and errors with 95 % intervals."""
    frames = common_frames(verdicts.values())
    rows = []
    for name, verdict in verdicts.items():
        facts = verdict.to_json(frames)
        low, high = facts["success_ci95"]
        cells = [f"{facts['successes']}/{facts['runs']} [{100 * low:.0f}, {100 * high:.0f}] %"]
        cells.append(f"{facts['seconds']:.2f}")
        for key in ("E_mpjpe_mm", "E_g_mpjpe_mm", "E_mpjpe_common_mm"):
            near, far = facts[f"{key}_ci95"]
            cells.append(f"{facts[key]:.1f} [{near:.1f}, {far:.1f}]")
        rows.append((name, *cells))
    return rows


HEADER = (
    *("policy", "success", "upright, s", "E_mpjpe, mm", "E_g-mpjpe, mm"),
    "E_mpjpe, mm, until the first failure of any",
)
