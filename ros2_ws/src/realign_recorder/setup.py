"""colcon build of realign_recorder; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_recorder"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    description="Records the graph to rosbag2 MCAP with provenance, and plays commands of a bag",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "player_node = realign_recorder.player_node:main",
            "recorder_node = realign_recorder.recorder_node:main",
        ]
    },
)
