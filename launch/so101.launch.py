"""An SO-101 arm under a policy, real or emulated: serial.launch.py says how.

ros2 launch realign_bringup so101.launch.py policy:=CHECKPOINT port:=/dev/ttyACM0 record:=BAG
"""

from launch import LaunchDescription
from realign_bringup.parts import POLICY, description, include


def generate_launch_description() -> LaunchDescription:
    """The launch file of all arms of bus servos, for this one."""
    return description((POLICY,), include(__file__, "serial.launch.py", "policy", robot="so101"))
