"""The recorder: one bag, told what runs.

ros2 launch realign_bringup record.launch.py robot:=g1 driver:=unitree policy:=PATH record:=BAG
"""

import json
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

ARGUMENTS = (
    ("robot", None, "robot name: g1, go2 or panda"),
    ("policy", None, "checkpoint directory"),
    ("driver", None, "what plays the robot: mujoco, unitree, ..."),
    ("record", "", "bag directory to write; empty for none"),
    ("lockstep", "false", "true: the simulator waits for each command"),
    ("seed", "0", "seed of start pose, goals and policy"),
    ("engine", "", "simulator of a virtual robot"),
    ("gap", "none", "dynamics gap of a virtual robot"),
)


def _graph(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    if not given["record"]:
        return []
    config = json.loads((Path(given["policy"]) / "config.json").read_text())
    provenance = {
        "robot": given["robot"],
        "robot_fingerprint": config["robot_fingerprint"],
        "policy": config["name"],
        "driver": given["driver"],
        **({"engine": given["engine"]} if given["engine"] else {}),
        "lockstep": given["lockstep"].lower(),
        "seed": given["seed"],
        "gap": given["gap"].partition(":")[0],  # of a hidden gap only that it is hidden
    }
    parameters = {
        "out": str(Path(given["record"]).absolute()),
        "provenance": json.dumps(provenance),
        "wait_for": "joint_states,action_chunk,joint_command,episode",
    }
    return [
        Node(
            package="realign_recorder",
            executable="recorder_node",
            output="screen",
            parameters=[parameters],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments and the recorder."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            OpaqueFunction(function=_graph),
        ]
    )
