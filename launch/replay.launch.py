"""The commands of a bag through the guard to a robot: the virtual one, unless a driver is named.

    ros2 launch realign_bringup replay.launch.py robot:=so101 bag:=BAG record:=PLAYED
    ros2 launch realign_bringup replay.launch.py robot:=so101 bag:=BAG driver:=serial \
        port:=/dev/ttyACM0

The virtual robot starts by itself. A real one waits: ``/guard/arm``, then ``/player/start``. An arm
goes to the first set-point slowly; everything ends when the last one has been sent. Arguments of
the robot's own launch file (gap, port, network, ...) are taken too.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction
from realign_bringup.parts import DRIVER, ROBOT, description, player, robot_of

ARGUMENTS = (
    ROBOT,
    DRIVER,
    ("bag", None, "bag whose commands are played"),
    ("command_topic", "", "topic of the commands; empty for /joint_command or /joint_commands"),
    ("record", "", "bag directory to write; empty for none"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    robot = robot_of(__file__, context, policy="", wait_for="player")
    played = {"bag": given["bag"], "command_topic": given["command_topic"]}
    # What starts by itself is known once the robot's own launch file has been read.
    return [robot, OpaqueFunction(function=lambda later: [player(later, **played)])]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the robot, and the player."""
    return description(ARGUMENTS, OpaqueFunction(function=_nodes))
