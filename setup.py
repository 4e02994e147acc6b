"""One distribution, ``realign``: policies, sim2real, calibration and the ROS 2 nodes.

The nodes live in a colcon workspace (``ros2_ws/src/<package>/<package>``); here the same code is
mapped into the distribution, so that ``pip install "realign[ros]"`` brings the whole graph and an
apt ROS 2 can build it with ``colcon build`` instead.
"""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

ROS_PACKAGES = (
    "realign_bringup",
    "realign_driver",
    "realign_franka_driver",
    "realign_mujoco_driver",
    "realign_policy",
    "realign_recorder",
    "realign_serial_driver",
    "realign_unitree_driver",
)

EXTRAS = {
    "sim": ["mujoco==3.11.*", "example-robot-data>=6.0"],
    # ROS 2 itself, as wheels; leave it out where an apt ROS 2 is sourced.
    "ros": [
        "ros-rclpy[fastrtps]",
        "ros-diagnostic-msgs",
        "ros-geometry-msgs",
        "ros-lifecycle-msgs",
        "ros-nav-msgs",
        "ros-rosgraph-msgs",
        "ros-sensor-msgs",
        "ros-std-msgs",
        "ros-std-srvs",
        "ros-trajectory-msgs",
    ],
    "train": ["torch==2.13.0"],
    # Compressed images, and colour orders other than rgb8, in the graph.
    "vision": ["opencv-contrib-python-headless<5"],
    # OpenCV 5 has no calibrateHandEye.
    "calibration": ["pin>=4.0", "opencv-contrib-python-headless<5"],
    # CycloneDDS as a wheel; 0.10 (the robot's own version) has none, but talks to this one.
    "unitree": ["cyclonedds==11.0.*"],
    "franka": ["pylibfranka==0.21.*"],
    "serial": ["pyserial>=3.5", "pymodbus>=3.10"],
    "serving": ["msgpack>=1.1", "websockets>=15"],
    # Demonstrations with images; the tasks that generative policies are judged on.
    "video": ["av>=14"],
    "metaworld": ["metaworld==3.0.0", "packaging"],
    "tensorboard": ["tensorboard"],
    # No "isaac" extra: Isaac Gym is not on PyPI and needs a Python 3.8 of its own.
    "dev": [
        "hypothesis",
        "import-linter",
        "mypy",
        "pytest",
        "pytest-rerunfailures",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "types-PyYAML",
        # Tests of what other extras are for, and a second opinion on the samplers.
        "av>=14",
        "cyclonedds==11.0.*",
        'diffusers; python_version >= "3.11"',
        "feetech-servo-sdk==1.0.*",
        "franky-control==2.0.*",
        "metaworld==3.0.0",
        "minimalmodbus==2.1.*",
        "msgpack>=1.1",
        "opencv-contrib-python-headless<5",
        "pin>=4.0",
        "pylibfranka==0.21.*",
        "pymodbus>=3.10",
        "pyserial>=3.5",
        "types-pyserial",
        "websockets>=15",
    ],
}

setup(
    name="realign",
    version="0.1.0",
    description="Robot learning for ROS 2: run a policy, record it, align the simulator with delta "
    "actions, fine-tune, run it again",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["policies*", "sim2real*", "calibration*"]),
        *ROS_PACKAGES,
    ],
    package_dir={name: f"ros2_ws/src/{name}/{name}" for name in ROS_PACKAGES},
    package_data={
        "policies": ["py.typed", "checkpoints/**/*"],
        "sim2real": ["py.typed"],
        "calibration": ["py.typed"],
        "realign_bringup": ["fastdds.xml", "security_policy.xml"],
    },
    data_files=[("share/realign_bringup/launch", glob("launch/*.launch.py"))],
    install_requires=[
        "lz4>=4.3",
        "mcap>=1.2",
        "numpy>=2.0",
        "onnx>=1.16",
        "onnxruntime>=1.20",
        "pyarrow>=17",
        "pyyaml>=6",
        "rosbags>=0.11",
        "safetensors>=0.5",
        "tqdm>=4.66",
        "tyro>=1.0",
        "zstandard>=0.22",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["realign = sim2real.cli:main"],
        # Named like the module, so that `-p sim2real.testing.plugin` finds it loaded already.
        "pytest11": ["sim2real.testing.plugin = sim2real.testing.plugin"],
    },
)
