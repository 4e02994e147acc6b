"""colcon build of realign_serial_driver; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_serial_driver"

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
    description="Arms of bus servos, a gripper and an e-stop button on serial ports, and emulated "
    "ones",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "driver_node = realign_serial_driver.driver_node:main",
            "gripper_node = realign_serial_driver.gripper_node:main",
            "estop_node = realign_serial_driver.estop_node:main",
            "homing = realign_serial_driver.homing:main",
            "emulator = realign_serial_driver.emulator:main",
        ]
    },
)
