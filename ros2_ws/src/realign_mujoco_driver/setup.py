"""colcon build of realign_mujoco_driver; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_mujoco_driver"

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
    description="A MuJoCo robot behind the topics of a real one, with dynamics gaps and faults",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "driver_node = realign_mujoco_driver.driver_node:main",
        ]
    },
)
