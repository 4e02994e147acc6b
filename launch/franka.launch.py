"""A Franka arm under a policy: driver, guard, policy, recorder; panda and fr3 include this.

    ros2 launch realign_bringup fr3.launch.py policy:=CHECKPOINT network:=172.16.0.2
    ros2 lifecycle set /policy configure
    ros2 service call /guard/arm std_srvs/srv/Trigger
    ros2 lifecycle set /policy activate                      # now it moves

Without a network the robot is emulated on the loopback. ``controller:=/NAME`` is for an arm that
franka_ros2 drives already: commands go to that joint_trajectory_controller, over no FCI of ours.
"""

import sys

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import ExecuteProcess, SetLaunchConfiguration
from launch_ros.actions import Node
from realign_bringup.parts import Checkpoint, hardware, is_true

EMULATED_ADDRESS = "127.0.0.43"
OUR_JOINT_STATES = "/realign/joint_states"
ARGUMENTS = (
    ("network", "", "address of the control box; empty for an emulated one"),
    ("enforce_realtime", "false", "insist on a kernel with PREEMPT_RT"),
    ("realtime_priority", "0", "SCHED_FIFO priority of the driver; 0 for none"),
    ("controller", "", "joint_trajectory_controller that drives the arm; empty to drive it by FCI"),
    ("robot_states", "/franka/joint_states", "joint states of an arm that ros2_control drives"),
    ("prefix", "", "what ros2_control puts before our joint names"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    if given["controller"]:
        return _trajectory(context)
    network = given["network"]
    entities: list[LaunchDescriptionEntity] = []
    if not network:
        network = EMULATED_ADDRESS
        words = ["--robot", given["robot"], "--address", network]
        policy = Checkpoint.of(context).path
        words += ["--policy", policy] if policy else []
        program = [sys.executable, "-m", "realign_franka_driver.emulator"]
        entities.append(ExecuteProcess(cmd=program + words, output="screen"))
    driver = Node(
        package="realign_franka_driver",
        executable="driver_node",
        ros_arguments=["--enclave", "/realign/franka_driver"],
        output="screen",
        parameters=[
            {
                "robot": given["robot"],
                "network": network,
                "enforce_realtime": is_true(context, "enforce_realtime"),
                "realtime_priority": int(given["realtime_priority"]),
            }
        ],
    )
    return [*entities, driver]


def _trajectory(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    names = ("robot", "controller", "robot_states", "prefix")
    node = Node(
        package="realign_franka_driver",
        executable="trajectory_node",
        ros_arguments=["--enclave", "/realign/franka_trajectory"],
        output="screen",
        remappings=[("joint_states", OUR_JOINT_STATES)],
        parameters=[{name: given[name] for name in names}],
    )
    # franka_ros2 publishes /joint_states itself; guard and policy listen to ours.
    return [SetLaunchConfiguration("joint_states", OUR_JOINT_STATES), node]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the driver, and what every robot has."""
    return hardware(__file__, ARGUMENTS, "franka", _nodes)
