"""Every method on G1 motions that none has seen, for several gaps. Run by `make bench`.

For each gap the policies run on a robot with it (closed loop, without ROS); one motion is left out
of the training, another one for each gap (``--every``: each in turn). Without G1 policies at hand
there is nothing to run and one line says so.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench_runtime import asap_data
from tqdm import tqdm

from policies.actor.asap import import_asap
from policies.checkpoint import load_policy
from policies.interface import Policy
from policies.robots.g1 import G1
from sim2real.baselines.compare import METHODS, Comparison, compare
from sim2real.episodes.episode import Episode
from sim2real.replay.cli import table_text
from sim2real.results import write_json
from sim2real.sim.gaps import make_gap
from sim2real.tasks.closed_loop import roll_out

GAPS = ("asap", "hidden:1", "worn")
ERRORS = (("e_g_mpjpe_mm", "E_g-mpjpe, mm"), ("e_mpjpe_mm", "E_mpjpe, mm"))


def policies(folder: Path, given: Sequence[Path]) -> dict[str, Policy]:
    """Checkpoints that were given, or ASAP's motion-tracking policies where they are at hand."""
    if given:
        return {path.name: load_policy(path, G1) for path in given}
    data = asap_data()
    if data is None:
        return {}
    out = {}
    for onnx in sorted((data / "policies").glob("*_level1.onnx")):
        import_asap(onnx, data / "asap_g1.json", onnx.stem, folder / onnx.stem)
        out[onnx.stem] = load_policy(folder / onnx.stem, G1)
    return out


def logs(motions: dict[str, Policy], gap: str, seeds: range) -> dict[str, list[Episode]]:
    """Runs of each policy on the robot with the gap."""
    return {
        name: [roll_out(p, G1, gap=make_gap(G1, gap), seed=s).episode for s in seeds]
        for name, p in motions.items()
    }


def summary(gap: str, comparisons: list[Comparison]) -> str:
    """Errors of each method, mean over the motions left out, and their share of open loop."""
    horizons = comparisons[0].result.horizons_s
    parts = []
    for name, title in ERRORS:
        rows = []
        for method in comparisons[0].result.methods:
            values = np.mean([getattr(c.result.methods[method], name) for c in comparisons], axis=0)
            base = np.mean(
                [getattr(c.result.methods["open_loop"], name) for c in comparisons], axis=0
            )
            cells = [f"{v:.1f} ({v / b:.2f})" for v, b in zip(values, base, strict=True)]
            rows.append((method.replace("_", " "), *cells))
        header = (f"{gap}: {title}", *(f"{h:g} s" for h in horizons))
        parts.append(table_text(header, rows))
    return "\n".join(parts)


def main() -> None:
    """Print two tables a gap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, nargs="*", default=[], help="G1 checkpoints")
    parser.add_argument("--gaps", nargs="+", default=list(GAPS))
    parser.add_argument("--left-out", nargs="*", default=[], help="motions; default: one a gap")
    parser.add_argument("--every", action="store_true", help="leave out each motion in turn")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--train-seeds", type=int, default=3, help="runs of each training motion")
    parser.add_argument("--json", type=Path, help="folder for one JSON a comparison")
    args, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        motions = policies(Path(folder), args.policies)
        if len(motions) < 2:
            print("compare: not run, it needs at least 2 G1 checkpoints (--policies DIR DIR ...)")
            return
        names = list(motions)
        for number, gap in enumerate(args.gaps):
            train = logs(motions, gap, range(args.train_seeds))
            test = logs(motions, gap, range(100, 102))
            done = []
            one = names[number % len(names) :][:1]
            for left in args.left_out or (names if args.every else one):
                learn = [e for name, some in train.items() if name != left for e in some]
                with tqdm(total=1.0, bar_format="{desc} {percentage:3.0f}% {elapsed}") as bar:

                    def show(what: str, share: float, bar: tqdm = bar) -> None:
                        bar.set_description_str(what, refresh=False)
                        bar.update(share - bar.n)

                    done.append(compare(learn, test[left], G1, methods=args.methods, progress=show))
                if args.json:
                    write_json(
                        args.json / f"{gap.replace(':', '_')}_{left}.json", done[-1].to_json()
                    )
                print(f"({gap}, without {left}: done)", flush=True)
            print(summary(gap, done), flush=True)


if __name__ == "__main__":
    main()
