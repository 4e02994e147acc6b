"""The recorder: one bag, told what runs.

ros2 launch realign_bringup record.launch.py robot:=g1 driver:=unitree policy:=PATH record:=BAG
"""

import json
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction
from launch_ros.actions import Node
from realign_bringup.parts import POLICY, ROBOT, Checkpoint, description, is_true

from policies.robots import get_robot

ARGUMENTS = (
    ROBOT,
    POLICY,
    ("driver", None, "what plays the robot: mujoco, unitree, ..."),
    ("record", "", "bag directory to write; empty for none"),
    ("cameras", "", "cameras to record, e.g. front,wrist; empty for none"),
    ("images", "compressed", "how: raw, compressed (JPEG) or lossless (PNG)"),
    ("lockstep", "false", "true: the simulator waits for each command"),
    ("seed", "0", "seed of start pose, goals and policy"),
    ("engine", "", "simulator of a virtual robot"),
    ("gap", "none", "dynamics gap of a virtual robot"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given, checkpoint = context.launch_configurations, Checkpoint.of(context)
    if not given["record"]:
        return []
    provenance = {
        "robot": given["robot"],
        "robot_fingerprint": get_robot(given["robot"]).fingerprint,
        "policy": checkpoint.name,
        "driver": given["driver"],
        **({"engine": given["engine"]} if given["engine"] else {}),
        "lockstep": given["lockstep"].lower(),
        "seed": given["seed"],
        "gap": given["gap"].partition(":")[0],  # of a hidden gap only that it is hidden
    }
    chunks = ["action_chunk"] * bool(checkpoint.path)
    parameters = {
        "out": str(Path(given["record"]).absolute()),
        "provenance": json.dumps(provenance),
        "cameras": given["cameras"],
        "images": given["images"],
        "lockstep": is_true(context, "lockstep"),
        "wait_for": ",".join(["joint_states", *chunks, "joint_command", "episode"]),
    }
    return [
        Node(
            package="realign_recorder",
            executable="recorder_node",
            ros_arguments=["--enclave", "/realign/recorder"],
            output="screen",
            parameters=[parameters],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments and the recorder."""
    return description(ARGUMENTS, OpaqueFunction(function=_nodes))
