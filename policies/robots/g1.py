"""Unitree G1, 29 joints.

Limits from Unitree's URDF, gains and default pose as in the configuration that ASAP's released
policies were trained with (arXiv 2502.01143). One gain differs: that configuration gives
``left_wrist_yaw`` kp 0 and its right twin 4; here both are 4, so that the wrist does not swing.
Armature, damping and friction are simulator values under which the released policies run.
"""

from policies.interface import JointSpec, RobotSpec

# name, lower, upper, velocity limit, effort limit, default, kp, kd
_LEG = (
    ("hip_pitch", -2.5307, 2.8798, 32.0, 88.0, -0.1, 100.0, 2.5),
    ("hip_roll", -0.5236, 2.9671, 32.0, 88.0, 0.0, 100.0, 2.5),
    ("hip_yaw", -2.7576, 2.7576, 32.0, 88.0, 0.0, 100.0, 2.5),
    ("knee", -0.087267, 2.8798, 20.0, 139.0, 0.3, 200.0, 5.0),
    ("ankle_pitch", -0.87267, 0.5236, 37.0, 50.0, -0.2, 20.0, 0.2),
    ("ankle_roll", -0.2618, 0.2618, 37.0, 50.0, 0.0, 20.0, 0.1),
)
_WAIST = (
    ("waist_yaw", -2.618, 2.618, 32.0, 88.0, 0.0, 400.0, 5.0),
    ("waist_roll", -0.52, 0.52, 37.0, 50.0, 0.0, 400.0, 5.0),
    ("waist_pitch", -0.52, 0.52, 37.0, 50.0, 0.0, 400.0, 5.0),
)
_ARM = (
    ("shoulder_pitch", -3.0892, 2.6704, 37.0, 25.0, 0.0, 90.0, 2.0),
    ("shoulder_roll", -1.5882, 2.2515, 37.0, 25.0, 0.0, 60.0, 1.0),
    ("shoulder_yaw", -2.618, 2.618, 37.0, 25.0, 0.0, 20.0, 0.4),
    ("elbow", -1.0472, 2.0944, 37.0, 25.0, 0.0, 60.0, 1.0),
    ("wrist_roll", -1.972222054, 1.972222054, 37.0, 25.0, 0.0, 4.0, 0.2),
    ("wrist_pitch", -1.61443, 1.61443, 22.0, 5.0, 0.0, 4.0, 0.2),
    ("wrist_yaw", -1.61443, 1.61443, 22.0, 5.0, 0.0, 4.0, 0.2),
)
_Row = tuple[str, float, float, float, float, float, float, float]


def _joint(name: str, row: _Row, *, mirror: bool = False) -> JointSpec:
    _, lower, upper, velocity, effort, default, kp, kd = row
    if (
        mirror
    ):  # roll axes point the same way on both sides: the right range is the left one mirrored
        lower, upper = -upper, -lower
    return JointSpec(
        name=f"{name}_joint",
        lower_rad=lower,
        upper_rad=upper,
        velocity_limit_rad_s=velocity,
        acceleration_limit_rad_s2=1000.0,
        effort_limit_nm=effort,
        default_rad=default,
        kp_nm_rad=kp,
        kd_nm_s_rad=kd,
        armature_kg_m2=0.01,
        damping_nm_s_rad=0.05,
        friction_nm=0.2,
    )


def _side(side: str, rows: tuple[_Row, ...]) -> tuple[JointSpec, ...]:
    mirrored = {"hip_roll", "shoulder_roll"} if side == "right" else set()
    return tuple(_joint(f"{side}_{row[0]}", row, mirror=row[0] in mirrored) for row in rows)


G1 = RobotSpec(
    name="g1",
    joints=(
        *_side("left", _LEG),
        *_side("right", _LEG),
        *(_joint(row[0], row) for row in _WAIST),
        *_side("left", _ARM),
        *_side("right", _ARM),
    ),
    floating_base=True,
    base_body="pelvis",
    base_height_m=0.793,
    ee_body=None,
    control_rate_hz=50.0,
    state_rate_hz=200.0,
    physics_dt_s=0.0025,
    urdf="g1_description/urdf/g1_29dof_rev_1_0.urdf",
    command="setpoint",
    gravity_compensated=False,
    stop="damp",
    max_base_rate_rad_s=15.0,  # ASAP's jumps with a turn reach 10.2; Unitree's own figure is 6
)
