"""colcon build of realign_bringup; pip uses the setup.py at the root of the repository."""

from glob import glob

from setuptools import setup

NAME = "realign_bringup"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    package_data={NAME: ["fastdds.xml", "security_policy.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("../../../launch/*.launch.py")),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    description="Launch files and the Fast DDS profile of realign",
    license="Apache-2.0",
    entry_points={"console_scripts": ["fault_relay = realign_bringup.fault_relay:main"]},
)
