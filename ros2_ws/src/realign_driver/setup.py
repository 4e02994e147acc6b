"""colcon build of realign_driver; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_driver"

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
    description="What nodes share: life, health, chunks, commands, and what drivers have in common",
    license="Apache-2.0",
)
