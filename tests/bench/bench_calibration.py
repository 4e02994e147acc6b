"""Calibration figures: rendered images of known cameras and a Panda, errors over several seeds.

1280x720, noise of 4 gray values, 20 views of a 7x5 ChArUco board of 40 mm squares.
"""

from __future__ import annotations

import argparse

import numpy as np

from calibration.camera import Camera
from calibration.detection import Frame, View, detect_all
from calibration.hand_eye import SETUPS, HandEye, HandEyeConfig, calibrate_hand_eye, pose_views
from calibration.intrinsics import IntrinsicsConfig, calibrate_camera
from calibration.joint_offsets import ViewsConfig, offsets_from_views
from calibration.kinematics import Chain
from calibration.synthetic import HandEyeScene, Renderer, random_poses
from calibration.targets import Target
from calibration.transforms import distance, inverse, rotation_vector
from sim2real.robot_data import robot_data_dir

TARGET = Target()
LENS = np.array([-0.1, 0.05, 0.001, -0.0005, 0.0])
CAMERA = Camera(
    width=1280, height=720, pinhole=np.array([900.0, 905.0, 641.3, 357.2]), distortion=LENS
)
HOME_RAD = np.array([0.0, -0.5, 0.0, -2.2, 0.0, 1.7, 0.785])
JOINT_NOISE_DEG = 0.05
VIEWS = 20


def intrinsics(seeds: int) -> None:
    """Focal error and reprojection error of a camera with distortion."""
    renderer = Renderer(CAMERA)
    print("| seed | focal error, % | rms, px | largest error / std |\n|---|---|---|---|")
    truth = np.concatenate([CAMERA.pinhole, CAMERA.distortion])
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        frames = (
            Frame(name=str(i), image=renderer.render(TARGET, T, rng=rng))
            for i, T in enumerate(random_poses(TARGET, CAMERA, VIEWS, rng))
        )
        found = calibrate_camera(detect_all(frames, TARGET), IntrinsicsConfig())
        covariance = found.camera.covariance
        assert covariance is not None
        error = np.concatenate([found.camera.pinhole, found.camera.distortion]) - truth
        focal = np.abs(error[:2] / truth[:2]).max()
        worst = np.abs(error / np.sqrt(np.diag(covariance))).max()
        print(f"| {seed} | {focal:.3%} | {found.rms_px:.3f} | {worst:.2f} |")


def hand_eye(seeds: int, joint_seeds: int) -> None:
    """Errors of hand and eye, with perfect joints and with noisy ones."""
    chain = Chain(
        robot_data_dir() / "panda_description/urdf/panda.urdf", "panda_link0", "panda_hand_tcp"
    )
    renderer = Renderer(CAMERA)
    print(
        f"\n| setup | seed | deg | mm | noisy joints ({JOINT_NOISE_DEG} deg): median deg | "
        "median mm | largest error / std | rms error / std | joint noise found, deg |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for setup in SETUPS:
        scene = HandEyeScene(
            chain=chain, target=TARGET, camera=CAMERA, setup=setup, home_rad=HOME_RAD
        )
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            joints = scene.sample(VIEWS, rng)
            frames = (
                Frame(name=str(i), image=renderer.render(TARGET, scene.T_cam_board(q), rng=rng))
                for i, q in enumerate(joints)
            )
            views = detect_all(frames, TARGET).views
            exact = [joints[int(view.name)] for view in views]

            def solve(qpos: list[np.ndarray], views=views, setup=setup) -> HandEye:
                posed = pose_views(views, qpos, chain, CAMERA, setup)
                return calibrate_hand_eye(posed, CAMERA, HandEyeConfig(setup=setup))

            angle, length = distance(scene.truth[0], solve(exact).fit.T_mount_cam)
            noise = np.deg2rad(JOINT_NOISE_DEG)
            noisy = [
                solve([q + rng.normal(0, noise, 7) for q in exact]) for _ in range(joint_seeds)
            ]
            apart = np.array([distance(scene.truth[0], f.fit.T_mount_cam) for f in noisy])
            scaled = np.array([_scaled(f, scene) for f in noisy])
            found = np.rad2deg(np.mean([f.fit.sigma_q_rad for f in noisy]))
            middle = np.median(apart, axis=0)
            print(
                f"| {setup} | {seed} | {np.rad2deg(angle):.4f} | {length * 1e3:.3f} | "
                f"{np.rad2deg(middle[0]):.3f} | {middle[1] * 1e3:.2f} | {np.abs(scaled).max():.2f} "
                f"| {np.sqrt(np.mean(scaled**2)):.2f} | {found:.3f} |"
            )


def joints(seeds: int) -> None:
    """Errors of encoder offsets of up to a degree, with noisy readings."""
    chain = Chain(
        robot_data_dir() / "panda_description/urdf/panda.urdf", "panda_link0", "panda_hand_tcp"
    )
    print("\n| setup | joints told | rms error, deg | largest, deg | rms error / std |")
    print("|---|---|---|---|---|")
    for setup in SETUPS:
        scene = HandEyeScene(
            chain=chain, target=TARGET, camera=CAMERA, setup=setup, home_rad=HOME_RAD
        )
        errors, scaled, told = [], [], 0
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            offset = np.deg2rad(rng.uniform(-1.0, 1.0, 7))
            offset[[0, 6]] = 0.0  # what no view tells
            true = scene.sample(VIEWS, rng)
            views = [_exact_view(scene, q, str(i), rng) for i, q in enumerate(true)]
            read = [q - offset + rng.normal(0, 2e-4, 7) for q in true]
            found = offsets_from_views(views, read, chain, CAMERA, ViewsConfig(setup=setup))
            error = (found.offset_rad - offset)[found.told]
            told += sum(found.told)
            errors += error.tolist()
            scaled += (error / np.sqrt(np.diag(found.covariance)[found.told])).tolist()
        degrees = np.rad2deg(errors)
        print(
            f"| {setup} | {told / seeds:.1f} of 7 | {np.sqrt(np.mean(degrees**2)):.3f} | "
            f"{np.abs(degrees).max():.3f} | {np.sqrt(np.mean(np.square(scaled))):.2f} |"
        )


def _exact_view(
    scene: HandEyeScene, qpos_rad: np.ndarray, name: str, rng: np.random.Generator
) -> View:
    """Corners of the board with noise of 0.05 px, without an image."""
    pose, corners = scene.T_cam_board(qpos_rad), TARGET.corners_m()
    pixels = CAMERA.project(corners @ pose[:3, :3].T + pose[:3, 3])[0]
    noisy = pixels + rng.normal(0, 0.05, pixels.shape)
    return View(name=name, ids=np.arange(len(noisy)), board_m=corners, pixels=noisy)


def _scaled(found: HandEye, scene: HandEyeScene) -> np.ndarray:
    """Error of the camera's mount over its standard deviation, (6,)."""
    between = inverse(found.fit.T_mount_cam) @ scene.truth[0]
    error = np.concatenate([rotation_vector(between[:3, :3]), between[:3, 3]])
    return error / np.sqrt(np.diag(found.fit.covariance)[:6])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="sets of images")
    parser.add_argument("--joint-seeds", type=int, default=20, help="sets of joint noise for each")
    parser.add_argument("--only", choices=["intrinsics", "hand_eye", "joints"], help="one table")
    args = parser.parse_args()
    if args.only in (None, "joints"):
        joints(args.seeds)
    if args.only == "joints":
        return
    if args.only in (None, "intrinsics"):
        intrinsics(args.seeds)
    if args.only == "intrinsics":
        return
    hand_eye(args.seeds, args.joint_seeds)


if __name__ == "__main__":
    main()
