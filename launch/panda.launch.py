"""A Franka Panda (FER) under a policy, emulated or by ros2_control: franka.launch.py says how.

ros2 launch realign_bringup panda.launch.py policy:=CHECKPOINT controller:=/NAME record:=BAG
"""

from launch import LaunchDescription
from realign_bringup.parts import include


def generate_launch_description() -> LaunchDescription:
    """The launch file of all Franka arms, for this one."""
    return LaunchDescription([include(__file__, "franka.launch.py", robot="panda")])
