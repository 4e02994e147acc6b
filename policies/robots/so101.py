"""SO-101 follower arm: five joints and a jaw, six STS3215 bus servos with a gear of 1:345.

Joint names, axes and ranges of the URDF with the calibration convention of 2025: zero in the middle
of each joint's range, the jaw closed at its lower limit. Speed and torque of the servo's data sheet
at 7.4 V: 4.7 rad/s without load, of which two thirds may be commanded, and 1.9 Nm stalled.
Accelerations are not limited by the maker. Gain, damping, armature and friction are published
identified values of the servo at its factory gain (P 32); a servo with another P has another
stiffness. The arm holds itself up against gravity by its position error: it sags.
"""

from policies.interface import JointSpec, RobotSpec

# name, lower, upper, default
_ROWS = (
    ("shoulder_pan", -1.91986, 1.91986, 0.0),
    ("shoulder_lift", -1.74533, 1.74533, -0.6),
    ("elbow_flex", -1.69, 1.69, 0.4),
    ("wrist_flex", -1.65806, 1.65806, 1.4),
    ("wrist_roll", -2.74385, 2.84121, 0.0),
    ("gripper", -0.174533, 1.74533, 0.5),
)

SO101 = RobotSpec(
    name="so101",
    joints=tuple(
        JointSpec(
            name=name,
            lower_rad=lower,
            upper_rad=upper,
            velocity_limit_rad_s=3.0,
            acceleration_limit_rad_s2=20.0,
            effort_limit_nm=1.9,
            default_rad=default,
            kp_nm_rad=17.8,
            kd_nm_s_rad=0.1,
            armature_kg_m2=0.028,
            damping_nm_s_rad=0.5,
            friction_nm=0.052,
        )
        for name, lower, upper, default in _ROWS
    ),
    floating_base=False,
    base_body="base_link",
    base_height_m=0.0,
    ee_body="gripper_frame_link",
    control_rate_hz=100.0,
    state_rate_hz=200.0,
    physics_dt_s=0.001,
    urdf="so_arm_description/urdf/so101.urdf",
    command="position",
    gravity_compensated=False,
    stop="brake",
)
