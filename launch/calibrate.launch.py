"""A bag for calibration: driver, guard and recorder, without a policy.

    ros2 launch realign_bringup calibrate.launch.py robot:=so101 driver:=serial \
        port:=/dev/ttyACM0 record:=BAG trajectory:=MOTION

``trajectory`` is a file of ``realign calibrate excite``; without it the robot is moved by hand, or
by whoever publishes ``action_chunk``, until Ctrl-C. A real robot waits: ``/guard/arm``, then
``/player/start``. Arguments of the robot's own launch file are taken too.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction
from realign_bringup.parts import DRIVER, ROBOT, description, player, robot_of

ARGUMENTS = (
    ROBOT,
    DRIVER,
    ("record", None, "bag directory to write"),
    ("trajectory", "", "motion of `realign calibrate excite`; empty for none"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    trajectory = context.launch_configurations["trajectory"]
    if not trajectory:
        return [robot_of(__file__, context, policy="")]
    robot = robot_of(__file__, context, policy="", wait_for="player")
    return [robot, OpaqueFunction(function=lambda later: [player(later, trajectory=trajectory)])]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the robot, and what moves it."""
    return description(ARGUMENTS, OpaqueFunction(function=_nodes))
