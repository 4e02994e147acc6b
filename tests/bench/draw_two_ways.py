"""Draws docs/images/two_ways.svg: demonstrations round an obstacle, their mean, flow matching.

    python tests/bench/draw_two_ways.py docs/images/two_ways.svg

Trains both policies on 50 demonstrations and runs each 50 times; half a minute of one core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from policies.datasets.collect import collect
from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.checkpoint import load_chunk_model, save_chunk_model
from policies.diffusion.config import NetworkConfig
from policies.diffusion.export import export_onnx
from policies.diffusion.trainer import TrainConfig, train_model
from policies.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate
from sim2real.tasks.obstacle import GOAL_M, RADIUS_M, Obstacle, ObstacleExpert, side

_SCALE, _WIDTH, _HEIGHT = 130.0, 300, 260
_LEFT, _RIGHT, _HIT = "#2b6cb0", "#d97706", "#b91c1c"


def main() -> None:
    """Write the picture and print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    data = collect(Obstacle(), ObstacleExpert(), episodes=50, noise=0.05)
    panels = [_panel(0, "50 demonstrations", data.state, [True] * len(data))]
    for i, (kind, steps, title) in enumerate(
        (("mlp", 1000, "MLP, least squares"), ("flow", 2000, "flow matching")), start=1
    ):
        result = _evaluate(data, kind, steps)
        good = [run.success for run in result.runs]
        sides = [side(run.states) for run in result.runs if run.success]
        print(
            f"{title}: {sum(good)} of {len(good)} arrive, {sides.count(1)} on the left, "
            f"{sides.count(-1)} on the right; {sum(run.failure for run in result.runs)} hit"
        )
        title = f"{title}: {sum(good)} of {len(good)} arrive"
        panels.append(_panel(i, title, [run.states for run in result.runs], good))
    width = _WIDTH * len(panels)
    args.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT + 30}" '
        f'font-family="sans-serif" font-size="14">\n'
        f'<rect width="{width}" height="{_HEIGHT + 30}" fill="white"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n",
        encoding="utf-8",
    )


def _evaluate(data: Demonstrations, kind: str, steps: int) -> Evaluation:
    config = TrainConfig(
        kind=kind,
        name=kind,
        network=NetworkConfig(width=128),
        steps=steps,
        batch=128,
        device="cpu",
    )
    trained = train_model(data, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind
        save_chunk_model(path, trained.config, export_onnx(trained.config, trained.network))
        model = load_chunk_model(path)
        runs = EvaluationConfig(episodes=50, batch=50, timed_episodes=0)
        return evaluate(model, Obstacle, config=runs)


def _panel(index: int, title: str, paths: Sequence[np.ndarray], good: Sequence[bool]) -> str:
    def place(point: Sequence[float]) -> tuple[float, float]:
        x = _WIDTH * (index + 0.5) + _SCALE * point[0]
        return round(x, 1), round(30 + 0.5 * _HEIGHT - _SCALE * point[1], 1)

    x, y = place((0.0, 0.0))
    rows = [
        f'<text x="{x}" y="20" text-anchor="middle">{title}</text>',
        f'<circle cx="{x}" cy="{y}" r="{_SCALE * RADIUS_M}" fill="#e5e7eb" stroke="#6b7280"/>',
        '<circle cx="{}" cy="{}" r="6" fill="#15803d"/>'.format(*place(GOAL_M)),
    ]
    for path, success in zip(paths, good, strict=True):
        colour = (_LEFT if side(path) > 0 else _RIGHT) if success else _HIT
        points = " ".join("{},{}".format(*place(point)) for point in path)
        rows.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>'
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
