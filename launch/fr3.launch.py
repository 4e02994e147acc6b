"""A Franka FR3 under a policy, real or emulated: franka.launch.py says how.

ros2 launch realign_bringup fr3.launch.py policy:=CHECKPOINT network:=172.16.0.2 record:=BAG
"""

from launch import LaunchDescription
from realign_bringup.parts import POLICY, description, include


def generate_launch_description() -> LaunchDescription:
    """The launch file of all Franka arms, for this one."""
    return description((POLICY,), include(__file__, "franka.launch.py", "policy", robot="fr3"))
