"""The picture of docs/methods/vla.md: the scripted expert picks a thing up, seen by both cameras.

python tests/bench/draw_pick.py --out docs/images/pick.png
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from policies.robots import PANDA_HAND
from sim2real.sim.camera_rig import CameraRig
from sim2real.tasks.language_pick import LanguagePick, LanguagePickExpert
from sim2real.tasks.panda_scene import CLOSE_VIEWS, SMALL_THINGS

_PIXELS, _SHOWN, _SEED = 160, (0, 16, 22, 26, 32), 3


def main() -> int:
    """Write the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    cameras = [replace(c, height=_PIXELS, width=_PIXELS) for c in CLOSE_VIEWS.cameras()]
    rig = CameraRig(PANDA_HAND, SMALL_THINGS, cameras)
    environment = LanguagePick("language-pick-yellow", look_every=1000)
    expert = LanguagePickExpert(environment)
    seen, columns = environment.reset(_SEED), []
    for step in range(_SHOWN[-1] + 1):
        if step in _SHOWN:
            columns.append(np.vstack(list(rig.images(seen.state, environment.objects).values())))
        seen = environment.step(expert.act(seen)).seen
    cv2.imwrite(str(out), cv2.cvtColor(np.hstack(columns), cv2.COLOR_RGB2BGR))
    return 0


if __name__ == "__main__":
    sys.exit(main())
