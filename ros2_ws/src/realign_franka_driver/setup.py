"""colcon build of realign_franka_driver; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_franka_driver"

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
    description="Franka FR3 over FCI or ros2_control, and an emulated control box",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "driver_node = realign_franka_driver.driver_node:main",
            "trajectory_node = realign_franka_driver.trajectory_node:main",
            "emulator = realign_franka_driver.emulator:main",
        ]
    },
)
