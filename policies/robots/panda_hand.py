"""Franka Panda whose hand is one of its joints: seven that turn, and a finger that slides.

A policy that grasps commands arm and fingers in one stream, which the guard limits as a whole. The
two fingers move together; ``panda_finger_joint1`` is how far one of them is from the middle, m.
Range of Franka's description, speed of a finger and force (70 N each, continuous) of the hand's
data sheet; gain, damping, armature and acceleration are simulator values. There is no driver for
real hardware: Franka's hand takes widths over a connection of its own, as the ``panda`` has it.
"""

from dataclasses import replace

from policies.interface import JointSpec
from policies.robots.panda import PANDA

FINGER = "panda_finger_joint1"

PANDA_HAND = replace(
    PANDA,
    name="panda_hand",
    joints=(
        *PANDA.joints,
        JointSpec(
            name=FINGER,
            lower_rad=0.0,
            upper_rad=0.04,
            velocity_limit_rad_s=0.2,
            acceleration_limit_rad_s2=1.0,
            effort_limit_nm=140.0,
            default_rad=0.038,
            kp_nm_rad=4000.0,
            kd_nm_s_rad=120.0,
            armature_kg_m2=0.5,
            damping_nm_s_rad=0.3,
            friction_nm=0.0,
            sliding=True,
        ),
    ),
    gripper=None,
    coupled=(("panda_finger_joint2", FINGER),),
)
