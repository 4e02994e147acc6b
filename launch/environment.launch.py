"""A quick and local DDS for the nodes of this machine, unless the environment says otherwise."""

from pathlib import Path

import realign_bringup
from launch import LaunchDescription
from launch.actions import SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable


def generate_launch_description() -> LaunchDescription:
    """Environment variables of the nodes that follow."""
    environment = {
        "FASTDDS_DEFAULT_PROFILES_FILE": str(
            Path(realign_bringup.__file__).with_name("fastdds.xml")
        ),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    return LaunchDescription(
        [
            SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))
            for name, value in environment.items()
        ]
    )
