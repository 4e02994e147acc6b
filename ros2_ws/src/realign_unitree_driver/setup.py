"""colcon build of realign_unitree_driver; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_unitree_driver"

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
    description="Unitree G1 and Go2 over DDS, with a watchdog of its own, and an emulated robot",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "driver_node = realign_unitree_driver.driver_node:main",
            "emulator = realign_unitree_driver.emulator:main",
        ]
    },
)
