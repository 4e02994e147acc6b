"""The motion that a policy is fine-tuned to track."""

from __future__ import annotations

import textwrap
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from policies.actor.config import ActorConfig, read_json
from policies.actor.onnx_actor import OnnxActor
from policies.errors import InputError
from policies.interface import Float, RobotSpec, reorder_index
from policies.rotation import rotate, rotation_vector
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.stepper import SimState
from sim2real.tasks.closed_loop import roll_out

_MAX_BYTES = 1024**3
_MAX_TICKS = 1_000_000
_MAX_REASON = 300  # characters
_KEYS = ("fps", "joint_names", "joint_pos")
_POSE_KEYS = ("root_pos", "root_quat_xyzw")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A motion at the control rate, one row a tick from the start (row 0) to the end.

    Attributes:
        name: where it comes from.
        state: robot states, arrays (T + 1, ...).
        body_pos_m: positions of the robot's bodies in the world, (T + 1, bodies, 3), m.
        root: index of the base body.
    """

    name: str
    state: SimState
    body_pos_m: Float
    root: int

    @classmethod
    def of(cls, name: str, robot: RobotSpec, state: SimState) -> Reference:
        """A reference from states (T + 1, ...)."""
        bodies = BodyPositions(robot)
        return cls(name=name, state=state, body_pos_m=bodies(state), root=bodies.root)

    def lifted(self, height_m: float) -> Reference:
        """The same motion with its lowest body at ``height_m`` in the median frame.

        A fixed base stays where it is.
        """
        if self.state.base_pos_m is None:
            return self
        up = np.array([0.0, 0.0, height_m - _standing_m(self.body_pos_m)])
        state = replace(self.state, base_pos_m=self.state.base_pos_m + up)
        return replace(self, state=state, body_pos_m=self.body_pos_m + up)

    def __len__(self) -> int:
        return len(self.body_pos_m)


def nominal_run(config: ActorConfig, robot: RobotSpec, model: bytes) -> Reference:
    """The motion as the policy itself performs it in the nominal simulator.

    Args:
        config: the policy's description.
        robot: the robot.
        model: content of its policy.onnx.

    Raises:
        InputError: a policy of another robot, or one that falls even there.
    """
    policy = OnnxActor(config, robot, model, "")
    run = roll_out(policy, robot, pose_noise_rad=0.0)
    if run.fell:
        raise InputError(
            f"expected a policy that performs its motion in the nominal simulator, but "
            f"{config.name} falls after {run.episode.t_s[-1]:.1f} s; give the motion that it "
            "should track with --motion"
        )
    names = (f.name for f in fields(SimState))
    state = SimState(**{name: getattr(run.episode, name) for name in names})
    return Reference.of(f"nominal run of {config.name}", robot, state)


def load_reference(path: Path, robot: RobotSpec, config: ActorConfig, own: Reference) -> Reference:
    """Read a motion and bring it to the policy's rate, length and start.

    The file is an ``.npz`` or ``.json`` with ``fps``, ``joint_names``, ``joint_pos`` (frames,
    joints) in rad, and for a legged robot ``root_pos`` (frames, 3) in m and ``root_quat_xyzw``
    (frames, 4). Joints that it does not name stay where the policy holds them. Its first frame is
    turned and moved to where the policy starts (base over the origin, facing x), and its height is
    set so that it stands as high as the policy does in the nominal simulator.

    Args:
        path: the file.
        robot: the robot.
        config: the policy: rate, duration and held joints.
        own: the policy's own run in the nominal simulator, see :func:`nominal_run`.

    Raises:
        InputError: the file cannot be read, lacks something, or has values that make no sense.
    """
    content = _read(path)
    what = str(path)
    try:
        names = [str(n) for n in np.atleast_1d(content["joint_names"])]
    except ValueError:
        raise InputError(
            f"{what}: expected a list of names in 'joint_names', got lists in it; export the "
            "motion again"
        ) from None
    index = reorder_index(robot.joint_names, names, f"{what}, joints of {robot.name}")
    reorder_index(names, config.action.joints, f"{what}, joints that {config.name} commands")
    fps = float(_numbers(content["fps"], 0, what, "fps"))
    motion = _numbers(content["joint_pos"], 2, what, "joint_pos")
    if motion.shape[1] != len(names) or len(motion) < 2 or not fps > 0.0:
        raise InputError(
            f"{what}: expected joint_pos (frames, {len(names)}) with at least 2 frames and a "
            f"positive fps, got {motion.shape} at {fps:g}; export the motion again"
        )
    ticks = round(min((config.duration_s or len(motion) / fps) * config.rate_hz, _MAX_TICKS + 1))
    if not 2 <= ticks <= _MAX_TICKS:
        raise InputError(
            f"{what}: expected a motion of 2 to {_MAX_TICKS} ticks at {config.rate_hz:g} Hz, got "
            f"{len(motion)} frames at {fps:g} per second; export the motion again"
        )
    # A motion that is shorter than the policy's, if only by a frame, is held at its end.
    at = np.minimum(np.arange(ticks + 1) / config.rate_hz * fps, len(motion) - 1)
    qpos = np.tile(robot.default_rad, (ticks + 1, 1))
    for name, value in config.hold_pose_rad.items():
        qpos[:, robot.joint_names.index(name)] = value
    qpos[:, index] = _sample(motion, at)
    pose = _base_pose(content, at, len(motion), what) if robot.floating_base else None
    out = Reference.of(path.stem, robot, _placed(robot, qpos, pose, config.rate_hz))
    return out.lifted(_standing_m(own.body_pos_m))


def _read(path: Path) -> dict[str, Any]:
    """Arrays of the file by name; only the names are checked here."""
    expected = (
        f"expected a motion (.npz or .json with {', '.join(_KEYS)}, and {', '.join(_POSE_KEYS)} "
        f"for a legged robot), got {path}"
    )
    if not path.is_file():
        raise InputError(f"{expected}, which is not a file; check the path")
    try:
        if path.suffix == ".json":
            content = read_json(path.read_text(encoding="utf-8"), str(path))
        else:
            with np.load(path, allow_pickle=False) as file:
                size = sum(part.file_size for part in file.zip.infolist())
                if size > _MAX_BYTES:
                    raise ValueError(f"it unfolds to {size} bytes")
                content = {name: file[name] for name in file.files}
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        NotImplementedError,
        MemoryError,
        BadZipFile,
        zlib.error,
        EOFError,
        RecursionError,
    ) as error:
        reason = textwrap.shorten(str(error), _MAX_REASON)  # one of zipfile quotes the whole file
        raise InputError(f"{expected}, which cannot be read ({reason}); export it again") from None
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise InputError(f"{expected}, in which {missing} are missing; add them")
    return content


def _numbers(value: Any, ndim: int, what: str, key: str) -> Float:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what}: expected numbers in {key!r}, got something else") from None
    if array.ndim != ndim or not np.isfinite(array).all():
        raise InputError(
            f"{what}: expected finite numbers with {ndim} dimensions in {key!r}, got shape "
            f"{array.shape} or values that are not finite; export the motion again"
        )
    return array


def _sample(rows: Float, at: Float) -> Float:
    """Rows (frames, k) at fractional frame numbers, linearly."""
    low = np.minimum(at.astype(int), len(rows) - 2)
    share = (at - low)[:, None]
    out: Float = (1.0 - share) * rows[low] + share * rows[low + 1]
    return out


def _base_pose(content: dict[str, Any], at: Float, frames: int, what: str) -> tuple[Float, Float]:
    """Base position (T + 1, 3), m, and orientation wxyz (T + 1, 4)."""
    missing = [key for key in _POSE_KEYS if key not in content]
    if missing:
        raise InputError(f"{what}: expected {missing} for a legged robot, got none; add them")
    position = _numbers(content["root_pos"], 2, what, "root_pos")
    xyzw = _numbers(content["root_quat_xyzw"], 2, what, "root_quat_xyzw")
    if position.shape != (frames, 3) or xyzw.shape != (frames, 4):
        raise InputError(
            f"{what}: expected root_pos {(frames, 3)} and root_quat_xyzw {(frames, 4)}, got "
            f"{position.shape} and {xyzw.shape}; export the motion again"
        )
    norm = np.linalg.norm(xyzw, axis=1)
    if np.abs(norm - 1.0).max() > 0.05:
        raise InputError(
            f"{what}: expected unit quaternions in 'root_quat_xyzw', got norms from "
            f"{norm.min():.2f} to {norm.max():.2f}; export the motion again"
        )
    wxyz = xyzw[:, [3, 0, 1, 2]]
    flip = np.cumprod(np.where((wxyz[1:] * wxyz[:-1]).sum(axis=1) < 0.0, -1.0, 1.0))
    wxyz = wxyz * np.concatenate([[1.0], flip])[:, None]
    turned = _sample(wxyz, at)
    return _sample(position, at), turned / np.linalg.norm(turned, axis=1, keepdims=True)


def _placed(
    robot: RobotSpec, qpos: Float, pose: tuple[Float, Float] | None, rate_hz: float
) -> SimState:
    """States with velocities; a base pose is turned and moved to the policy's start."""
    qvel = np.gradient(qpos, 1.0 / rate_hz, axis=0)
    if pose is None:
        return SimState(qpos_rad=qpos, qvel_rad_s=qvel)
    position, quat = pose
    w, x, y, z = quat[0]
    yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    back = np.array([np.cos(yaw / 2.0), 0.0, 0.0, -np.sin(yaw / 2.0)])
    quat = _times(back, quat)
    position = rotate(np.tile(back, (len(quat), 1)), position - [*position[0, :2], 0.0])
    turn = rotation_vector(quat[:-1], quat[1:]) * rate_hz
    return SimState(
        qpos_rad=qpos,
        qvel_rad_s=qvel,
        base_pos_m=position,
        base_quat_wxyz=quat,
        base_lin_vel_m_s=np.gradient(position, 1.0 / rate_hz, axis=0),
        base_ang_vel_rad_s=np.concatenate([turn, turn[-1:]]),
    )


def _times(a: Float, b: Float) -> Float:
    """Product of a quaternion (4,) and quaternions (T, 4), wxyz."""
    real = a[0] * b[:, 0] - b[:, 1:] @ a[1:]
    vector = a[0] * b[:, 1:] + b[:, :1] * a[1:] + np.cross(a[1:], b[:, 1:])
    return np.concatenate([real[:, None], vector], axis=1)


def _standing_m(body_pos_m: Float) -> float:
    """Height of the lowest body in the median frame, m.

    The median, because a jump leaves the floor and a foot sinks in for a frame or two.
    """
    return float(np.median(body_pos_m[..., 2].min(axis=-1)))
