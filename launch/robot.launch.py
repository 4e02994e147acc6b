"""Guard and policy for a robot that has a driver already; nothing moves until an operator arms.

    ros2 launch realign_bringup robot.launch.py robot:=panda policy:=CHECKPOINT \
        joint_states:=/franka/joint_states
    ros2 lifecycle set /policy configure && ros2 lifecycle set /policy activate
    ros2 service call /guard/arm std_srvs/srv/Trigger

The driver publishes ``sensor_msgs/JointState`` (and ``sensor_msgs/Imu`` for a legged robot) and
takes ``trajectory_msgs/JointTrajectory`` of one point each control tick: positions to track, or no
positions at all for damping (torque = -kd qdot). It must stop the robot when commands stop.
"""

import json
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode, Node

TOPICS = ("joint_states", "imu", "goal", "joint_command")
ARGUMENTS = (
    ("robot", None, "robot name: g1 or panda"),
    ("policy", None, "checkpoint directory"),
    *((name, name, f"topic for {name}") for name in TOPICS),
)


def _graph(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    checkpoint = Path(given["policy"]).absolute()
    config = json.loads((checkpoint / "config.json").read_text())
    # A generative model states its rate in its spec.
    rate_hz = float(config.get("spec", config)["rate_hz"])
    remappings = [(name, given[name]) for name in TOPICS if given[name] != name]
    guard = Node(
        package="realign_policy",
        executable="guard_node",
        output="screen",
        remappings=remappings,
        parameters=[{"robot": given["robot"], "policy_rate_hz": rate_hz, "auto_arm": False}],
    )
    policy = LifecycleNode(
        package="realign_policy",
        executable="policy_node",
        name="policy",
        namespace="",
        output="screen",
        remappings=remappings,
        parameters=[{"robot": given["robot"], "policy": str(checkpoint), "autostart": False}],
    )
    return [guard, policy]


def generate_launch_description() -> LaunchDescription:
    """Arguments and the two nodes."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            OpaqueFunction(function=_graph),
        ]
    )
