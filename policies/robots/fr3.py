"""Franka FR3 with hand, 7 joints and a gripper.

Position, speed and torque limits as in Franka's description of the FR3, acceleration limits at half
of the published 10 rad/s^2. Near its stops a joint must be slower than these limits say; the
driver's emulated control box checks that, the guard does not. The model is the Panda's: both arms
have the same geometry, and no description of the FR3 comes with ``example-robot-data``, so the
masses are those of a Panda. Gains and simulator values are the Panda's too.
"""

from dataclasses import replace

from policies.interface import GripperSpec, RobotSpec
from policies.robots.panda import PANDA

# lower, upper, velocity limit
_ROWS = (
    (-2.7501, 2.7501, 2.62),
    (-1.7918, 1.7918, 2.62),
    (-2.9065, 2.9065, 2.62),
    (-3.0481, -0.1458, 2.62),
    (-2.8101, 2.8101, 5.26),
    (0.54092, 4.5205, 4.18),
    (-3.0196, 3.0196, 5.26),
)
_ACCELERATION_RAD_S2 = 5.0

FR3: RobotSpec = replace(
    PANDA,
    name="fr3",
    joints=tuple(
        replace(
            joint,
            name=f"fr3_joint{i + 1}",
            lower_rad=lower,
            upper_rad=upper,
            velocity_limit_rad_s=velocity,
            acceleration_limit_rad_s2=_ACCELERATION_RAD_S2,
        )
        for i, (joint, (lower, upper, velocity)) in enumerate(zip(PANDA.joints, _ROWS, strict=True))
    ),
    base_body="fr3_link0",
    ee_body="fr3_hand_tcp",
    gripper=GripperSpec(
        finger_joints=("fr3_finger_joint1", "fr3_finger_joint2"),
        max_width_m=0.08,
        max_force_n=70.0,
    ),
    urdf_prefixes=("panda_", "fr3_"),
)
