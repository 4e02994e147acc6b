"""A Unitree Go2 under a policy, real or emulated: unitree.launch.py says how.

ros2 launch realign_bringup go2.launch.py policy:=CHECKPOINT network:=eth0 record:=BAG
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource


def generate_launch_description() -> LaunchDescription:
    """The launch file of all Unitree robots, for this one."""
    path = Path(__file__).with_name("unitree.launch.py")
    source = PythonLaunchDescriptionSource(str(path))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=[("robot", "go2")])]
    )
