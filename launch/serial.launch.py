"""An arm of bus servos under a policy: driver, guard, policy, recorder; so101 includes this.

    ros2 launch realign_bringup so101.launch.py policy:=CHECKPOINT port:=/dev/ttyACM0
    ros2 lifecycle set /policy configure
    ros2 service call /guard/arm std_srvs/srv/Trigger
    ros2 lifecycle set /policy activate                      # now it moves

Without a port the arm is emulated.
"""

import sys
import tempfile
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import ExecuteProcess, SetLaunchConfiguration
from launch_ros.actions import Node
from realign_bringup.parts import Checkpoint, hardware

EMULATOR_WAIT_S = 30.0
OPERATOR_TIMEOUT_S = "0.25"
ARGUMENTS = (
    ("port", "", "serial port of the arm, e.g. /dev/ttyACM0; empty for an emulated one"),
    ("calibration", "", "calibration of a real arm; empty for the one of this computer"),
    ("torque_limit", "0.8", "share of the servos' torque that the joints may use"),
    ("gripper_torque_limit", "0.5", "the same for the gripper"),
    ("goals", "0", "random goals of the reach task to publish; 0 where others publish them"),
    ("goal_period_s", "4.0", "time for each goal, s"),
    ("estop_port", "", "serial port of an e-stop button; empty for none"),
    ("realtime_priority", "0", "SCHED_FIFO priority of the driver; 0 for none"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    port, calibration, wait_s = given["port"], given["calibration"], 0.0
    entities: list[LaunchDescriptionEntity] = []
    if not port:
        folder = Path(tempfile.mkdtemp(prefix="realign_arm_"))
        port, calibration = str(folder / "port"), str(folder / "calibration.json")
        wait_s = EMULATOR_WAIT_S
        words = ["arm", "--robot", given["robot"], "--link", port, "--calibration", calibration]
        policy = Checkpoint.of(context).path
        words += ["--policy", policy] if policy else []
        program = [sys.executable, "-m", "realign_serial_driver.emulator"]
        entities.append(ExecuteProcess(cmd=program + words, output="screen"))
    driver = Node(
        package="realign_serial_driver",
        executable="driver_node",
        ros_arguments=["--enclave", "/realign/serial_driver"],
        output="screen",
        parameters=[
            {
                "robot": given["robot"],
                "port": port,
                "calibration": calibration,
                "port_wait_s": wait_s,
                "goals": int(given["goals"]),
                "goal_period_s": float(given["goal_period_s"]),
                "torque_limit": float(given["torque_limit"]),
                "gripper_torque_limit": float(given["gripper_torque_limit"]),
                "realtime_priority": int(given["realtime_priority"]),
            }
        ],
    )
    entities.append(driver)
    if given["estop_port"]:
        button = Node(
            package="realign_serial_driver",
            executable="estop_node",
            ros_arguments=["--enclave", "/realign/estop_button"],
            output="screen",
            parameters=[{"port": given["estop_port"]}],
        )
        # The guard stops the robot too when this node falls silent.
        entities += [button, SetLaunchConfiguration("operator_timeout_s", OPERATOR_TIMEOUT_S)]
    return entities


def generate_launch_description() -> LaunchDescription:
    """Arguments, the driver, and what every robot has."""
    return hardware(__file__, ARGUMENTS, "serial", _nodes)
