"""A policy on a robot that training never saw: as given, fine-tuned with a delta-action model, and
fine-tuned with random dynamics. Run by `make bench`, which needs BENCH_ARGS="--policy CHECKPOINT".

The robot is a simulator with a gap that is used twice: to record logs of the given policies (they
end where the robot falls), and to judge. Training sees the logs only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from policies.checkpoint import Checkpoint, load_policy, read_checkpoint, save_checkpoint
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from sim2real.delta.model import SavedDelta, load_delta
from sim2real.delta.train import train_delta
from sim2real.episodes.episode import Episode
from sim2real.finetune.evaluate import HEADER, Verdict, common_frames, judge, table
from sim2real.finetune.reference import Reference, load_reference, nominal_run
from sim2real.finetune.simulator import Randomization
from sim2real.finetune.train import FinetuneConfig, Progress, finetune
from sim2real.replay.cli import table_text
from sim2real.results import write_json
from sim2real.sim.gaps import Gap, load_gap, make_gap
from sim2real.tasks.closed_loop import roll_out

LOG_SEEDS = range(1000, 1005)  # never those of the verdict


def main() -> int:
    """Print one table; returns the exit code."""
    args = _arguments()
    if not args.policy:
        print('bench_finetune: nothing to do; give BENCH_ARGS="--policy CHECKPOINT"')
        return 0
    checkpoint = read_checkpoint(args.policy)
    robot = get_robot(checkpoint.config.robot)
    gap = make_gap(robot, args.gap)
    own = nominal_run(checkpoint.config, robot, checkpoint.model)
    motion = load_reference(args.motion, robot, checkpoint.config, own) if args.motion else own
    track = motion if args.track_motion else own
    runs = _runs(args, robot, gap)
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory() as folder:
        places = {"vanilla": args.policy}
        for name, (delta, simulator, randomization) in runs.items():
            config = FinetuneConfig(
                minutes=args.minutes,
                iterations=args.iterations,
                envs=args.envs,
                seed=args.seed,
                randomization=randomization,
                # Around the nominal simulator the given policy is often the best: not a baseline.
                keep_best=randomization is None,
            )
            places[name] = (args.out or Path(folder)) / name.replace(" ", "_").replace(",", "")
            _train(checkpoint, robot, track, delta, simulator, config, places[name])
        for name, place in places.items():
            policy = load_policy(place, robot)
            verdicts[name] = judge(policy, robot, motion, gap=gap, seeds=range(args.seeds))
    title = f"{checkpoint.config.name} on {args.gap}, {args.seeds} seeds"
    print(f"{title}, {args.minutes:g} min each; errors against {motion.name}")
    print(table_text(HEADER, table(verdicts)), flush=True)
    if args.json:
        frames = common_frames(verdicts.values())
        write_json(args.json, {name: v.to_json(frames) for name, v in verdicts.items()})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--policy", type=Path, help="checkpoint to fine-tune")
    add("--motion", type=Path, help="motion to judge by (.npz or .json); default: its nominal run")
    add("--track-motion", action="store_true", help="train on the motion, not on the nominal run")
    add("--gap", default="fragile", help="the robot: a gap's name or file")
    add("--delta", type=Path, nargs="*", default=[], help="delta models, or simulators as .json")
    add("--log-policies", type=Path, nargs="*", help="policies whose logs train a delta model")
    add("--minutes", type=float, default=20.0, help="time for each training, min")
    add("--iterations", type=int, help="updates after which each training ends in any case")
    add("--envs", type=int, default=FinetuneConfig.envs, help="robots side by side")
    add("--seeds", type=int, default=20, help="runs of each policy")
    add("--seed", type=int, default=0, help="of the training")
    add("--oracle", action="store_true", help="also train on the robot itself: what is reachable")
    add("--out", type=Path, help="folder that keeps the policies")
    add("--json", type=Path, help="file for the results")
    return parser.parse_known_args()[0]


Setting = tuple[SavedDelta | None, Gap | None, Randomization | None]


def _runs(args: argparse.Namespace, robot: RobotSpec, gap: Gap) -> dict[str, Setting]:
    """What to train: name -> delta model, simulator, random dynamics."""
    out: dict[str, Setting] = {}
    for path in args.delta:
        if path.suffix == ".json":
            out[f"simulator {path.stem}"] = None, load_gap(path, robot), None
        else:
            out[f"delta {path.name}"] = load_delta(path, robot), None, None
    if not args.delta:
        logs = _logs(args.log_policies or [args.policy], robot, gap)
        model, _ = train_delta(logs, robot)
        out["delta"] = model, None, None
    out["randomized"] = None, None, Randomization()
    if args.oracle:
        out["oracle"] = None, gap, None
    return out


def _logs(policies: list[Path], robot: RobotSpec, gap: Gap) -> list[Episode]:
    """Runs of policies on the robot, each until its end or fall."""
    logs = []
    for path in policies:
        policy = load_policy(path, robot)
        logs += [roll_out(policy, robot, gap=gap, seed=seed).episode for seed in LOG_SEEDS]
    return logs


def _train(
    checkpoint: Checkpoint,
    robot: RobotSpec,
    reference: Reference,
    delta: SavedDelta | None,
    simulator: Gap | None,
    config: FinetuneConfig,
    out: Path,
) -> None:
    def show(progress: Progress) -> None:
        if progress.score:
            print(
                f"{out.name}: {progress.minutes:.1f} min, update {progress.iteration}, in training "
                f"{100 * progress.score.success:.0f} %, {progress.score.e_mpjpe_mm:.1f} mm",
                file=sys.stderr,
                flush=True,
            )

    result = finetune(
        checkpoint,
        robot,
        reference,
        delta=delta,
        simulator=simulator,
        config=config,
        report=show,
    )
    save_checkpoint(out, result.config, result.model, overwrite=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        raise SystemExit(f"bench_finetune: {error}") from None
