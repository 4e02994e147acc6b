"""A Franka Panda (FER) under a policy, emulated or by ros2_control: franka.launch.py says how.

ros2 launch realign_bringup panda.launch.py policy:=CHECKPOINT controller:=/NAME record:=BAG
"""

from launch import LaunchDescription
from realign_bringup.parts import POLICY, description, include


def generate_launch_description() -> LaunchDescription:
    """The launch file of all Franka arms, for this one."""
    return description((POLICY,), include(__file__, "franka.launch.py", "policy", robot="panda"))
