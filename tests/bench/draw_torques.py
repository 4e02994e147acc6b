"""Draws docs/images/torques.svg: torques that a calibrated model explains, and the URDF does not.

realign calibrate excite --robot panda --out motion.json
realign calibrate play motion.json --robot panda --gap hidden:7 --record bag
realign calibrate actuators bag --robot panda --json actuators.json --hold-out-s 4
python tests/bench/draw_torques.py actuators.json docs/images/torques.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from plot import Axes, page

_SERIES = {"urdf": ("as the URDF says", "#b91c1c"), "calibrated": ("calibrated", "#2b6cb0")}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="JSON of `realign calibrate actuators`")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    residuals = json.loads(args.result.read_text(encoding="utf-8"))["residuals"]
    values = {
        kind: [r["value"] for name, r in residuals.items() if name.startswith(f"held_out.{kind}.")]
        for kind in _SERIES
    }
    count = len(values["urdf"])
    axes = Axes(
        left=52,
        top=56,
        width=640,
        height=220,
        x_range=(0.5, count + 0.5),
        y_range=(0.0, 1.15 * max(map(max, values.values()))),
    )
    axes.grid("joint", "torque left unexplained, Nm rms", range(1, count + 1))
    axes.bars([(values[kind], colour) for kind, (_, colour) in _SERIES.items()])
    axes.legend([(words, colour, False) for words, colour in _SERIES.values()], 20)
    title = "Torques of the last 4 s, predicted from the rest: what is left, joint by joint"
    args.out.write_text(page(720, 330, title, [axes]), encoding="utf-8")


if __name__ == "__main__":
    main()
