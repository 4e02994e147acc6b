"""Camera messages to RGB arrays: right pixels, few copies, one sentence about what is wrong."""

from __future__ import annotations

import builtins
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from realign_policy.images import ENCODINGS, CameraStream, topic_of

from policies.diffusion.interface import CameraSpec
from policies.errors import InputError

CAMERA = CameraSpec(name="front", height=24, width=32)
STAMP = SimpleNamespace(sec=3, nanosec=5)
RNG = np.random.default_rng(0)
SMOOTH = cv2.resize(RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8), (32, 24))


def raw(pixels, encoding, padding=0, **changes):
    """A ``sensor_msgs/Image``, with bytes after each row."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    data = array("B")
    data.frombytes(rows.tobytes())
    fields = {
        "header": SimpleNamespace(stamp=STAMP),
        "encoding": encoding,
        "height": height,
        "width": width,
        "step": rows.shape[1],
        "data": data,
    }
    return SimpleNamespace(**(fields | changes))


def compressed(pixels, suffix=".png", **changes):
    """A ``sensor_msgs/CompressedImage`` of RGB pixels."""
    _, data = cv2.imencode(suffix, pixels[..., ::-1])
    fields = {"header": SimpleNamespace(stamp=STAMP), "format": "png", "data": array("B", data)}
    return SimpleNamespace(**(fields | changes))


def stream(keep=2):
    return CameraStream(CAMERA, keep=keep)


def seen(message):
    camera = stream()
    camera.take(message)
    return camera.rgb()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_raw_images_become_rgb(encoding, padding):
    rgb = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    alpha = np.full((24, 32, 1), 9, np.uint8)
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], axis=2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], axis=2),
        "mono8": rgb[..., :1],
    }[encoding]
    wanted = np.repeat(rgb[..., :1], 3, axis=2) if encoding == "mono8" else rgb
    np.testing.assert_array_equal(seen(raw(pixels, encoding, padding)), wanted)


@pytest.mark.parametrize(("suffix", "error"), [(".png", 0), (".jpg", 12)])
def test_compressed_images_become_rgb(suffix, error):
    found = seen(compressed(SMOOTH, suffix))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - SMOOTH).mean() <= error
    swapped = np.abs(found.astype(int) - SMOOTH[..., ::-1]).mean()
    assert swapped > 20, "red and blue are told apart"


def test_rgb_is_not_copied():
    message = raw(SMOOTH, "rgb8")
    assert np.shares_memory(seen(message), np.frombuffer(message.data, np.uint8))


def test_an_image_is_decoded_once_and_only_if_asked_for():
    camera = stream()
    camera.take(raw(SMOOTH, "nonsense"))
    camera.take(raw(SMOOTH, "bgr8"))
    assert camera.received == 2
    assert camera.stamp_ns == 3_000_000_005
    assert camera.rgb() is camera.rgb()


def test_buffers_are_used_again_but_not_under_images_that_are_kept():
    camera, images, values = stream(keep=2), [], []
    for value in range(12):
        camera.take(raw(np.full((24, 32, 3), value, np.uint8), "bgr8"))
        images.append(camera.rgb())
        values.append(value)
        for image, kept in list(zip(images, values, strict=True))[-2:]:
            assert (image == kept).all()
    assert len({image.__array_interface__["data"][0] for image in images}) == 3


def test_before_the_first_image():
    camera = stream()
    assert camera.stamp_ns is None
    with pytest.raises(InputError, match="'front': expected an image, but none has come"):
        camera.rgb()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (raw(SMOOTH, "yuv422"), "'front': expected an encoding out of.*got 'yuv422'"),
        (raw(SMOOTH[:, :16], "rgb8"), "'front': expected images of 32 x 24 pixels, got 16 x 24"),
        (raw(SMOOTH[:12], "bgr8"), "got 32 x 12"),
        (raw(SMOOTH, "rgb8", step=95), "rows of at least 96 bytes.*rows of 95"),
        (raw(SMOOTH, "rgba8"), "at least 128 bytes"),
        (raw(SMOOTH, "rgb8", data=array("B", b"123")), "got 3 bytes"),
        (compressed(SMOOTH[:12]), "got 32 x 12"),
        (compressed(SMOOTH, data=array("B", b"no image")), "'front': expected a whole JPEG or PNG"),
        (compressed(SMOOTH, data=array("B")), "got 0"),
        (compressed(SMOOTH, data=array("B", bytes(80_000))), "1 to 67840 bytes, got 80000"),
    ],
)
def test_what_is_wrong_is_named(message, words):
    with pytest.raises(InputError, match=words):
        seen(message)


def test_without_opencv_only_rgb_is_read(monkeypatch):
    original = builtins.__import__

    def no_opencv(name, *more):
        if name == "cv2":
            raise ImportError(name)
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", no_opencv)
    np.testing.assert_array_equal(seen(raw(SMOOTH, "rgb8")), SMOOTH)
    for message in (raw(SMOOTH, "bgr8"), compressed(SMOOTH)):
        with pytest.raises(InputError, match=r"pip install 'realign\[vision\]'"):
            seen(message)


def test_topics():
    assert topic_of("front", "raw") == "front/image_raw"
    assert topic_of("front", "compressed") == "front/image_raw/compressed"
    with pytest.raises(InputError, match="'theora'"):
        topic_of("front", "theora")
