"""Guard and policy for a robot that has a driver already; nothing moves until an operator arms.

    ros2 launch realign_bringup robot.launch.py robot:=panda policy:=CHECKPOINT \
        joint_states:=/franka/joint_states
    ros2 lifecycle set /policy configure && ros2 lifecycle set /policy activate
    ros2 service call /guard/arm std_srvs/srv/Trigger

The driver publishes ``sensor_msgs/JointState`` (and ``sensor_msgs/Imu`` for a legged robot) and
takes ``trajectory_msgs/JointTrajectory`` of one point each control tick: positions to track, or no
positions at all for damping (torque = -kd qdot). It must stop the robot when commands stop.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction
from launch_ros.actions import LifecycleNode, Node
from realign_bringup.parts import POLICY, ROBOT, Checkpoint, description, is_true

TOPICS = ("joint_states", "imu", "goal", "joint_command")
ARGUMENTS = (
    ROBOT,
    POLICY,
    *((name, name, f"topic for {name}") for name in TOPICS),
    ("autostart", "false", "true: arm, configure and activate by themselves (a simulated robot)"),
    ("operator_timeout_s", "0", "silence of operator_stop that stops the robot, s; 0 for none"),
    ("lockstep", "false", "true: the simulator waits for each command"),
    ("seed", "0", "seed of start pose, goals and policy"),
    ("executor", "receding", "while a policy plans: receding (waits), ensemble, async or rtc"),
    ("action_horizon", "0", "steps from one plan to the next; 0 for the policy's own"),
    ("inference_delay_steps", "0", "steps from an observation to the use of its answer, at least"),
    ("in_flight", "1", "requests of async and rtc that may be under way at a time"),
    ("fade", "-1", "steps beyond the delay over which rtc lets go of a plan; -1 for all of it"),
    ("deadline_s", "0.3", "time that an answer may take before the robot gets no commands, s"),
    ("instruction", "", "what a policy that reads instructions is told"),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given, checkpoint = context.launch_configurations, Checkpoint.of(context)
    autostart = is_true(context, "autostart")
    common = {"robot": given["robot"], "lockstep": is_true(context, "lockstep")}
    watched = {
        "policy_rate_hz": checkpoint.rate_hz,
        "auto_arm": autostart,
        "operator_timeout_s": float(given["operator_timeout_s"]),
    }
    remappings = [(name, given[name]) for name in TOPICS if given[name] != name]
    guard = Node(
        package="realign_policy",
        executable="guard_node",
        ros_arguments=["--enclave", "/realign/guard"],
        output="screen",
        remappings=remappings,
        parameters=[common, watched],
    )
    if not checkpoint.path:
        return [guard]
    answers = {
        "policy": checkpoint.path,
        "seed": int(given["seed"]),
        "autostart": autostart,
        "executor": given["executor"],
        "action_horizon": int(given["action_horizon"]),
        "inference_delay_steps": int(given["inference_delay_steps"]),
        "in_flight": int(given["in_flight"]),
        "fade": int(given["fade"]),
        "deadline_s": float(given["deadline_s"]),
        "instruction": given["instruction"],
    }
    policy = LifecycleNode(
        package="realign_policy",
        executable="policy_node",
        ros_arguments=["--enclave", "/realign/policy"],
        name="policy",
        namespace="",
        output="screen",
        remappings=remappings,
        parameters=[common, answers],
    )
    return [guard, policy]


def generate_launch_description() -> LaunchDescription:
    """Arguments and the two nodes."""
    return description(ARGUMENTS, OpaqueFunction(function=_nodes))
