"""What the launch files share: arguments, includes, and what a checkpoint says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from policies.checkpoint import inspect
from policies.robots import ROBOTS

Rows = Iterable[tuple[str, str | None, str]]
ROBOT = ("robot", None, f"robot name: {', '.join(ROBOTS)}")
DRIVER = ("driver", "mujoco", "what plays the robot: mujoco, unitree, franka or serial")
POLICY = ("policy", None, "checkpoint directory; '' for none: guard and driver alone")
_POLICY_RATE_HZ = 50.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What launch files need to know of a policy.

    Attributes:
        path: absolute path; empty where there is no policy.
        name: what it is called.
        rate_hz: how often it answers, Hz.
        endless: True where it tracks no motion that ends.
    """

    path: str = ""
    name: str = "none"
    rate_hz: float = _POLICY_RATE_HZ
    endless: bool = True

    @classmethod
    def of(cls, context: LaunchContext) -> Checkpoint:
        """The one that the argument ``policy`` names."""
        given = context.launch_configurations["policy"]
        if not given:
            return cls()
        path = Path(given).absolute()
        info = inspect(path)
        return cls(
            path=str(path),
            name=info["name"],
            rate_hz=info["rate_hz"],
            endless=info["duration_s"] is None,
        )


def is_true(context: LaunchContext, name: str) -> bool:
    """The value of an argument that says yes or no."""
    return context.launch_configurations[name].lower() == "true"


def description(rows: Rows, *entities: LaunchDescriptionEntity) -> LaunchDescription:
    """A launch description: arguments (name, default or None, help), then ``entities``."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in rows
    ]
    return LaunchDescription([*declared, *entities])


def include(beside: str, name: str, *passed: str, **arguments: str) -> IncludeLaunchDescription:
    """Include the launch file ``name`` that lies beside the file ``beside``.

    Args:
        beside: a launch file in the same folder.
        name: of the file.
        passed: our arguments that it needs: `launch` wants those without a default handed on.
        arguments: further ones, with values.
    """
    source = PythonLaunchDescriptionSource(str(Path(beside).with_name(name)))
    handed_on = [(key, LaunchConfiguration(key)) for key in passed]
    return IncludeLaunchDescription(source, launch_arguments=[*handed_on, *arguments.items()])


def robot_of(beside: str, context: LaunchContext, **arguments: str) -> IncludeLaunchDescription:
    """Include the launch file of the robot that the arguments ``driver`` and ``robot`` name.

    Args:
        beside: a launch file in the same folder.
        context: of the launch.
        arguments: further arguments of that file.
    """
    given = context.launch_configurations
    name = {"mujoco": "sim"}.get(given["driver"], given["driver"])
    return include(beside, f"{name}.launch.py", robot=given["robot"], **arguments)


def player(context: LaunchContext, **parameters: str) -> Node:
    """The node that plays a motion in a policy's place, once; then everything ends.

    Args:
        context: of the launch; ``autostart`` says whether it waits for an operator.
        parameters: what it plays.
    """
    robot, autostart = context.launch_configurations["robot"], is_true(context, "autostart")
    return Node(
        package="realign_recorder",
        executable="player_node",
        ros_arguments=["--enclave", "/realign/player"],
        output="screen",
        parameters=[{"robot": robot, "autostart": autostart, **parameters}],
        on_exit=Shutdown(reason="the motion is over"),
    )


def hardware(
    beside: str,
    rows: Rows,
    driver: str,
    nodes: Callable[[LaunchContext], list[LaunchDescriptionEntity]],
) -> LaunchDescription:
    """The graph of a robot behind a driver: environment, driver, guard, policy, recorder.

    Args:
        beside: the launch file that this is for.
        rows: its own arguments.
        driver: what ``realign run --driver`` calls it.
        nodes: gives the driver, and what emulates the robot where there is none.
    """
    return description(
        (ROBOT, POLICY, *rows),
        include(beside, "environment.launch.py"),
        OpaqueFunction(function=nodes),
        include(beside, "robot.launch.py", "robot", "policy"),
        include(beside, "record.launch.py", "robot", "policy", driver=driver),
    )
