"""The virtual robot, guarded and driven by a policy, optionally recorded.

    ros2 launch realign_bringup sim.launch.py robot:=g1 policy:=CHECKPOINT gap:=payload record:=BAG

The graph is that of ``realign run --driver mujoco``; it ends when the driver has finished.
"""

import json
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import LifecycleNode, Node

ARGUMENTS = (
    ("robot", None, "robot name: g1 or panda"),
    ("policy", None, "checkpoint directory"),
    ("engine", "mujoco", "simulator: mujoco, or sapien or isaacgym in their own interpreter"),
    ("gap", "none", "dynamics gap, e.g. payload, sticky, latency, hidden:7"),
    ("faults", "", "sensor faults, e.g. nan_state@1.0:0.2 (start:duration, s)"),
    ("lockstep", "false", "true: the simulator waits for each command"),
    ("seed", "0", "seed of start pose, goals and policy"),
    ("duration_s", "0.0", "length, s; 0 for the policy's motion, or all goals"),
    ("goals", "5", "number of goals, for a policy that has no motion of its own"),
    ("goal_period_s", "4.0", "time for each goal, s"),
    ("record", "", "bag directory to write; empty for none"),
)


def _graph(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = context.launch_configurations
    robot, checkpoint, record = given["robot"], Path(given["policy"]).absolute(), given["record"]
    lockstep, seed = given["lockstep"].lower() == "true", int(given["seed"])
    config = json.loads((checkpoint / "config.json").read_text())
    # A generative model states its rate in its spec, and has no end.
    rate_hz, endless = float(config.get("spec", config)["rate_hz"]), not config.get("duration_s")
    common = {"robot": robot, "lockstep": lockstep}
    listeners = ["guard", "policy", *(["recorder"] if record else [])]
    driver = Node(
        package="realign_mujoco_driver",
        executable="driver_node",
        output="screen",
        parameters=[
            common,
            {
                "policy": str(checkpoint),
                "seed": seed,
                "engine": given["engine"],
                "gap": given["gap"],
                "faults": given["faults"],
                "duration_s": float(given["duration_s"]),
                "goals": int(given["goals"]) if endless else 0,
                "goal_period_s": float(given["goal_period_s"]),
                "wait_for": ",".join(listeners),
            },
        ],
    )
    guard = Node(
        package="realign_policy",
        executable="guard_node",
        output="screen",
        parameters=[common, {"auto_arm": True, "policy_rate_hz": rate_hz}],
    )
    policy = LifecycleNode(
        package="realign_policy",
        executable="policy_node",
        name="policy",
        namespace="",
        output="screen",
        parameters=[common, {"policy": str(checkpoint), "seed": seed, "autostart": True}],
    )
    finished = OnProcessExit(target_action=driver, on_exit=[Shutdown(reason="driver finished")])
    return [RegisterEventHandler(finished), guard, policy, driver]


def _include(name: str) -> IncludeLaunchDescription:
    path = Path(__file__).with_name(name)
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(path)))


def generate_launch_description() -> LaunchDescription:
    """Arguments, the environment, and the nodes."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            _include("environment.launch.py"),
            OpaqueFunction(function=_graph),
            SetLaunchConfiguration("driver", "mujoco"),
            _include("record.launch.py"),
        ]
    )
