"""Franka Panda (FER) with hand, 7 joints and a gripper; the FR3 shares the joint names' order.

Position, velocity and torque limits from Franka's data sheet (FER), acceleration limits at half of
the published 15/7.5/10/12.5/15/20/20 rad/s^2. Gains are stiff joint impedance, critically damped
for unit inertia; armature and damping are simulator values, checked against a real log.
"""

import math

from policies.interface import GripperSpec, JointSpec, RobotSpec

# lower, upper, velocity limit, acceleration limit, effort limit, default, kp
_ROWS = (
    (-2.8973, 2.8973, 2.175, 7.5, 87.0, 0.0, 2400.0),
    (-1.7628, 1.7628, 2.175, 3.75, 87.0, -math.pi / 4, 2400.0),
    (-2.8973, 2.8973, 2.175, 5.0, 87.0, 0.0, 2400.0),
    (-3.0718, -0.0698, 2.175, 6.25, 87.0, -3 * math.pi / 4, 2400.0),
    (-2.8973, 2.8973, 2.61, 7.5, 12.0, 0.0, 1000.0),
    (-0.0175, 3.7525, 2.61, 10.0, 12.0, math.pi / 2, 600.0),
    (-2.8973, 2.8973, 2.61, 10.0, 12.0, math.pi / 4, 200.0),
)

PANDA = RobotSpec(
    name="panda",
    joints=tuple(
        JointSpec(
            name=f"panda_joint{i + 1}",
            lower_rad=lower,
            upper_rad=upper,
            velocity_limit_rad_s=velocity,
            acceleration_limit_rad_s2=acceleration,
            effort_limit_nm=effort,
            default_rad=default,
            kp_nm_rad=kp,
            kd_nm_s_rad=2.0 * math.sqrt(kp),
            armature_kg_m2=0.1,
            damping_nm_s_rad=1.0,
            friction_nm=0.0,
        )
        for i, (lower, upper, velocity, acceleration, effort, default, kp) in enumerate(_ROWS)
    ),
    floating_base=False,
    base_body="panda_link0",
    base_height_m=0.0,
    ee_body="panda_hand_tcp",
    control_rate_hz=100.0,
    state_rate_hz=200.0,
    physics_dt_s=0.001,
    urdf="panda_description/urdf/panda.urdf",
    command="position",
    gravity_compensated=True,
    stop="brake",
    gripper=GripperSpec(
        finger_joints=("panda_finger_joint1", "panda_finger_joint2"),
        max_width_m=0.08,
        max_force_n=70.0,
    ),
)
