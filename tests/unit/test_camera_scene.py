"""What the cameras of the virtual robots see."""

from __future__ import annotations

import numpy as np
import pytest

from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.robots import G1, PANDA, SO101
from sim2real.tasks.camera_scene import SCENES, CameraScene


def cameras(*names, height=48, width=64):
    return [CameraSpec(name=name, height=height, width=width) for name in names]


def red_pixels(image):
    pixels = image.astype(int)
    return (pixels[..., 0] > 80) & (pixels[..., 0] > 3 * pixels[..., 1:].max(axis=2))


@pytest.mark.parametrize("robot", [PANDA, SO101])
def test_a_policy_gets_the_cameras_and_sizes_that_it_wants(robot):
    name = SCENES[robot.name].cameras[1].name
    images = CameraScene(robot, cameras(name, height=30, width=40), 0).images(robot.default_rad)
    assert {key: image.shape for key, image in images.items()} == {name: (30, 40, 3)}


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_the_box_of_the_so101_is_seen_and_lies_elsewhere_for_each_seed(camera):
    seen = []
    for seed in range(8):
        scene = CameraScene(SO101, cameras(camera), seed)
        seen.append(red_pixels(scene.images(SO101.default_rad)[camera]))
    visible = [bool(pixels.any()) for pixels in seen]
    assert all(visible) if camera == "front" else any(visible)
    assert len({pixels.tobytes() for pixels in seen}) > 4


def test_the_wrist_camera_moves_with_the_arm():
    scene = CameraScene(SO101, cameras("front", "wrist"), 3)
    pose = SO101.default_rad.copy()
    before = scene.images(pose)
    pose[SO101.joint_names.index("wrist_roll")] += 0.8
    after = scene.images(pose)
    assert np.abs(after["wrist"].astype(int) - before["wrist"]).mean() > 1.0
    again = CameraScene(SO101, cameras("front", "wrist"), 3).images(pose)
    for name in after:
        np.testing.assert_array_equal(again[name], after[name])


@pytest.mark.parametrize(("robot", "known"), [(SO101, r"\['front', 'wrist'\]"), (G1, r"\[\]")])
def test_a_camera_that_a_robot_has_not_is_named(robot, known):
    with pytest.raises(InputError, match=rf"{known}, which the virtual {robot.name} has"):
        CameraScene(robot, cameras("front", "ceiling"), 0)
