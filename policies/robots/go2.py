"""Unitree Go2, 12 joints.

Limits from Unitree's URDF, joint order of Unitree's SDK, gains of the stand in Unitree's public
deployment stack; the pose is a stand with the feet below the hips. Armature, damping and friction
are simulator values. Accelerations are not limited by the maker; the figure is G1's.
"""

from policies.interface import JointSpec, RobotSpec

# name, velocity limit, effort limit, default, kp, kd
_LEG = (
    ("hip", 30.1, 23.7, 0.0, 60.0, 5.0),
    ("thigh", 30.1, 23.7, 0.8, 80.0, 4.0),
    ("calf", 15.7, 45.43, -1.5, 80.0, 4.0),
)
_RANGE = {
    "hip": (-1.0472, 1.0472),
    "front_thigh": (-1.5708, 3.4907),
    "rear_thigh": (-0.5236, 4.5379),
    "calf": (-2.7227, -0.83776),
}


def _joint(leg: str, row: tuple[str, float, float, float, float, float]) -> JointSpec:
    name, velocity, effort, default, kp, kd = row
    end = "front" if leg.startswith("F") else "rear"
    lower, upper = _RANGE[f"{end}_thigh" if name == "thigh" else name]
    return JointSpec(
        name=f"{leg}_{name}_joint",
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


GO2 = RobotSpec(
    name="go2",
    joints=tuple(_joint(leg, row) for leg in ("FR", "FL", "RR", "RL") for row in _LEG),
    floating_base=True,
    base_body="base",
    base_height_m=0.33,
    ee_body=None,
    control_rate_hz=50.0,
    state_rate_hz=200.0,
    physics_dt_s=0.001,  # 200 Hz of states and 500 Hz of the motors both divide it
    urdf="go2_description/urdf/go2.urdf",
    command="setpoint",
    gravity_compensated=False,
    stop="damp",
)
