"""A Unitree G1, 29 joints under a policy, real or emulated: unitree.launch.py says how.

ros2 launch realign_bringup g1.launch.py policy:=CHECKPOINT network:=eth0 record:=BAG
"""

from launch import LaunchDescription
from realign_bringup.parts import POLICY, description, include


def generate_launch_description() -> LaunchDescription:
    """The launch file of all Unitree robots, for this one."""
    return description((POLICY,), include(__file__, "unitree.launch.py", "policy", robot="g1"))
