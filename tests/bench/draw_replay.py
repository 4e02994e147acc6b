"""Draws docs/images/replay_error.svg: replay error over time, without and with a delta action.

    realign demo --out demo
    python tests/bench/draw_replay.py demo docs/images/replay_error.svg

Reads the held-out episodes and the delta model that the demo left; some seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from plot import Axes, page

from policies.robots import PANDA
from sim2real.delta.model import load_delta
from sim2real.episodes.store import load_episodes
from sim2real.replay.open_loop import replay

_HORIZONS_S = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_CURVES = {"open_loop": ("nominal simulator", "#b91c1c"), "delta_action": ("with delta", "#2b6cb0")}


def main() -> None:
    """Write the picture and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder of `realign demo`")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    episodes = load_episodes(args.demo / "episodes" / "held_out", PANDA)
    delta = load_delta(args.demo / "delta", PANDA)
    content = replay(episodes, PANDA, delta=delta, horizons_s=_HORIZONS_S).to_json()
    errors = {name: content["methods"][name]["E_g_mpjpe_mm"] for name in _CURVES}
    joints = {
        name: 1e3 * np.array(content["methods"][name]["qpos_rmse_per_joint_rad"][-1])
        for name in _CURVES
    }
    panels = [_over_time(errors), _per_joint(joints)]
    title = "Replay of a held-out bag: error of the bodies over time, and of each joint"
    args.out.write_text(page(720, 330, title, panels), encoding="utf-8")
    for i, horizon in enumerate(content["horizons_s"]):
        print(f"{horizon:5.2f} s", *(f"{name} {e[i]:.3f} mm" for name, e in errors.items()))


def _over_time(errors: dict[str, list[float]]) -> Axes:
    """Mean distance of the bodies up to a time."""
    top = 1.15 * max(map(max, errors.values()))
    axes = Axes(left=52, top=56, width=330, height=220, x_range=(0.0, 1.0), y_range=(0.0, top))
    axes.grid("time since the reset to the log, s", "mean distance of bodies to the log, mm")
    for name, (_, colour) in _CURVES.items():
        axes.curve([0.0, *_HORIZONS_S], [0.0, *errors[name]], colour)
    axes.legend([(words, colour, False) for words, colour in _CURVES.values()], 20)
    return axes


def _per_joint(joints: dict[str, np.ndarray]) -> Axes:
    """Bars: root mean square of each joint's error over the longest horizon."""
    top = 1.15 * max(float(values.max()) for values in joints.values())
    count = len(PANDA.joint_names)
    axes = Axes(
        left=446, top=56, width=260, height=220, x_range=(0.5, count + 0.5), y_range=(0.0, top)
    )
    axes.grid("joint", "error of joints over 1 s, mrad", range(1, count + 1))
    axes.bars([(joints[name].tolist(), colour) for name, (_, colour) in _CURVES.items()])
    return axes


if __name__ == "__main__":
    main()
