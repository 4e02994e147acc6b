"""The virtual robot, guarded and driven by a policy, optionally recorded.

    ros2 launch realign_bringup sim.launch.py robot:=g1 policy:=CHECKPOINT gap:=payload record:=BAG

The graph is that of ``realign run --driver mujoco``; it ends when the driver has finished.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch_ros.actions import Node
from realign_bringup.parts import POLICY, ROBOT, Checkpoint, description, include, is_true

ARGUMENTS = (
    ROBOT,
    POLICY,
    ("engine", "mujoco", "simulator: mujoco, or sapien or isaacgym in their own interpreter"),
    ("gap", "none", "dynamics gap, e.g. payload, sticky, latency, hidden:7"),
    ("faults", "", "sensor faults, e.g. nan_state@1.0:0.2 (start:duration, s)"),
    ("lockstep", "false", "true: the simulator waits for each command"),
    ("seed", "0", "seed of start pose, goals and policy"),
    ("duration_s", "0.0", "length, s; 0 for the policy's motion, or all goals"),
    ("goals", "5", "number of goals, for a policy that has no motion of its own"),
    ("goal_period_s", "4.0", "time for each goal, s"),
    ("record", "", "bag directory to write; empty for none"),
    ("wait_for", "", "further nodes that must be there before the robot says anything"),
    ("autostart", "true", "false: an operator arms the guard and activates the policy"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given, checkpoint = context.launch_configurations, Checkpoint.of(context)
    listeners = ["guard"] + ["policy"] * bool(checkpoint.path)
    listeners += ["recorder"] * bool(given["record"])
    listeners += [given["wait_for"]] * bool(given["wait_for"])
    driver = Node(
        package="realign_mujoco_driver",
        executable="driver_node",
        ros_arguments=["--enclave", "/realign/mujoco_driver"],
        output="screen",
        parameters=[
            {
                "robot": given["robot"],
                "lockstep": is_true(context, "lockstep"),
                "policy": checkpoint.path,
                "seed": int(given["seed"]),
                "engine": given["engine"],
                "gap": given["gap"],
                "faults": given["faults"],
                "duration_s": float(given["duration_s"]),
                "goals": int(given["goals"]) if checkpoint.path and checkpoint.endless else 0,
                "goal_period_s": float(given["goal_period_s"]),
                "wait_for": ",".join(listeners),
            },
        ],
    )
    finished = OnProcessExit(target_action=driver, on_exit=[Shutdown(reason="driver finished")])
    return [RegisterEventHandler(finished), driver]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the environment, and the nodes."""
    return description(
        ARGUMENTS,
        include(__file__, "environment.launch.py"),
        OpaqueFunction(function=_nodes),
        include(__file__, "robot.launch.py", "robot", "policy"),
        include(__file__, "record.launch.py", "robot", "policy", driver="mujoco"),
    )
