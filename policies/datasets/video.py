"""Images of a dataset as H.264 video, through PyAV (``pip install "realign[video]"``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError

_QUALITY = "17"  # CRF: visually lossless; 0 is exact and ten times as large


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], rate_hz: float) -> None:
    """Write frames, RGB (H, W, 3), all of one even size, as one video.

    Args:
        path: the ``.mp4``; its folder is made.
        frames: the frames in order.
        rate_hz: frames a second, Hz.
    """
    av = importlib.import_module("av")  # an optional extra, without type information
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                rate = Fraction(rate_hz).limit_denominator(1000)
                # A key frame every second keeps a cut to the middle of the video cheap.
                options = {"crf": _QUALITY, "g": str(max(1, round(rate_hz)))}
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def read_video(path: Path) -> NDArray[np.uint8]:
    """Read every frame of a video, RGB, (T, H, W, 3).

    Raises:
        InputError: it is missing or is not a video.
    """
    av = importlib.import_module("av")  # an optional extra, without type information
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, OSError, IndexError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected a video, but {path} cannot be read ({error}); write the dataset again"
        ) from None
    if not frames:
        raise InputError(f"expected a video, but {path} has no frame; write the dataset again")
    return np.stack(frames)
