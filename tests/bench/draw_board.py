"""Draws docs/images/board.png: a board as a camera sees it, with the corners that were found.

realign calibrate target board
realign calibrate rehearse bag --robot panda --board board.json --truth truth.json
python tests/bench/draw_board.py bag board.json docs/images/board.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from calibration.detection import detect_all
from calibration.targets import read_target
from sim2real.calibrate_sources import bag_frames

_SHOWN, _WIDTH, _GAP, _RED = 3, 320, 6, (40, 40, 220)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path, help="bag of `realign calibrate rehearse`")
    parser.add_argument("board", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    frames = list(bag_frames(args.bag, None, 2.0)[0])
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, _SHOWN).astype(int)]
    pictures = []
    for frame in chosen:
        (view,) = detect_all([frame], read_target(args.board)).views
        shown = cv2.cvtColor(frame.image, cv2.COLOR_GRAY2BGR)
        for x, y in view.pixels:
            cv2.circle(shown, (round(x), round(y)), 8, _RED, 3)
        height = round(_WIDTH * shown.shape[0] / shown.shape[1])
        small = cv2.resize(shown, (_WIDTH, height), interpolation=cv2.INTER_AREA)
        # The sensor's noise is most of the file, and nothing to look at.
        small = np.minimum(np.round(small / 16.0) * 16.0, 255.0).astype(np.uint8)
        pictures += [small, np.full((height, _GAP, 3), 255, np.uint8)]
    cv2.imwrite(str(args.out), np.hstack(pictures[:-1]))


if __name__ == "__main__":
    main()
