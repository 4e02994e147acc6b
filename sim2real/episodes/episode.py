"""One episode: states and actions on an even time grid, in canonical joint order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from policies.interface import Float
from sim2real.episodes.frames import CameraFrames


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T samples at ``rate_hz``; row k of the action is in force from ``t_s[k]`` to ``t_s[k + 1]``.

    Attributes:
        robot: robot name.
        robot_fingerprint: :attr:`policies.interface.RobotSpec.fingerprint`.
        rate_hz: sampling rate, Hz.
        t_s: time since the start of the bag, (T,), s.
        qpos_rad, qvel_rad_s: joint states, (T, n).
        action_rad: commanded joint positions, (T, n).
        action_vel_rad_s: commanded joint velocities, (T, n), or None.
        effort_nm: measured torques, (T, n), Nm, or None.
        base_pos_m: base position in the world, (T, 3), or None.
        base_quat_wxyz: base orientation in the world, (T, 4), or None.
        base_lin_vel_m_s: base velocity in the world frame, (T, 3), or None.
        base_ang_vel_rad_s: base angular velocity in the base frame, (T, 3), or None.
        images: camera -> its images, one for each sample.
        task: what was done, free text.
        source: provenance: bag, sha256, policy, seed, ...
    """

    robot: str
    robot_fingerprint: str
    rate_hz: float
    t_s: Float
    qpos_rad: Float
    qvel_rad_s: Float
    action_rad: Float
    action_vel_rad_s: Float | None = None
    effort_nm: Float | None = None
    base_pos_m: Float | None = None
    base_quat_wxyz: Float | None = None
    base_lin_vel_m_s: Float | None = None
    base_ang_vel_rad_s: Float | None = None
    images: dict[str, CameraFrames] = field(default_factory=dict)
    task: str = ""
    source: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.t_s)

    def setpoint_rad(self, kp_nm_rad: Float, kd_nm_s_rad: Float) -> Float:
        """Position set-points that act like the logged commands, (T, n), rad.

        A commanded velocity enters a PD loop as ``kp (q* - q) + kd (qd* - qd)``; the same torque
        comes from the set-point ``q* + kd / kp qd*`` alone.
        """
        if self.action_vel_rad_s is None:
            return self.action_rad
        return self.action_rad + self.action_vel_rad_s * np.asarray(kd_nm_s_rad) / kp_nm_rad
