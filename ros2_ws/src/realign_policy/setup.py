"""colcon build of realign_policy; pip uses the setup.py at the root of the repository."""

from setuptools import setup

NAME = "realign_policy"

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
    description="Lifecycle node that runs a policy, and the guard of what it commands",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "policy_node = realign_policy.policy_node:main",
            "guard_node = realign_policy.guard_node:main",
        ]
    },
)
