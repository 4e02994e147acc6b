"""A Unitree robot under a policy: driver, guard, policy, recorder; g1 and go2 include this.

    ros2 launch realign_bringup g1.launch.py policy:=CHECKPOINT network:=eth0
    ros2 lifecycle set /policy configure
    ros2 service call /guard/arm std_srvs/srv/Trigger        # or key A of the remote
    ros2 lifecycle set /policy activate                      # now it moves

In this order: a policy that tracks a motion begins when it is activated. Without a network the
robot is emulated on the loopback.
"""

import sys

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import ExecuteProcess
from launch_ros.actions import Node
from realign_bringup.parts import Checkpoint, hardware, is_true

EMULATED_DOMAIN = 43
ARGUMENTS = (
    ("network", "", "interface or own address that leads to the robot; empty for an emulated one"),
    ("dds_domain", "0", "DDS domain of a real robot"),
    ("ankles", "pr", "pr: pitch and roll; ab: single motors of the parallel ankles"),
    ("mode_machine", "-1", "robot type to accept; -1 for the robot's own"),
    ("release", "true", "make the stock controllers let go of the motors first"),
    ("realtime_priority", "0", "SCHED_FIFO priority of the driver; 0 for none"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    network, domain = given["network"], int(given["dds_domain"])
    entities: list[LaunchDescriptionEntity] = []
    if not network:
        network, domain = "lo", EMULATED_DOMAIN
        words = ["--robot", given["robot"], "--domain", str(domain)]
        policy = Checkpoint.of(context).path
        words += ["--policy", policy] if policy else []
        program = [sys.executable, "-m", "realign_unitree_driver.emulator"]
        entities.append(ExecuteProcess(cmd=program + words, output="screen"))
    driver = Node(
        package="realign_unitree_driver",
        executable="driver_node",
        ros_arguments=["--enclave", "/realign/unitree_driver"],
        output="screen",
        parameters=[
            {
                "robot": given["robot"],
                "network": network,
                "dds_domain": domain,
                "ankles": given["ankles"],
                "mode_machine": int(given["mode_machine"]),
                "release": is_true(context, "release"),
                "realtime_priority": int(given["realtime_priority"]),
            }
        ],
    )
    return [*entities, driver]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the driver, and what every robot has."""
    return hardware(__file__, ARGUMENTS, "unitree", _nodes)
