"""What a policy sees: messages of several topics become one observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, Imu, JointState

from policies import messages as wire
from policies.diffusion.interface import CameraSpec
from policies.interface import Observation, Policy, RobotSpec
from policies.runtime.planning import PlanningPolicy, cameras_of
from policies.runtime.watches import PictureWatch
from realign_driver.qos import LATCHED_NEWEST, QOS
from realign_policy.data_loop import DataGroup
from realign_policy.images import CameraStream, topic_of

# A publisher of whatever reliability matches, and an image that is lost is not sent again.
IMAGE_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True, kw_only=True)
class Vision:
    """Cameras of a policy, and how their images come.

    Attributes:
        cameras: names and sizes that the policy expects.
        transport: one of :data:`realign_policy.images.TRANSPORTS`.
        max_age_s: largest distance between the stamps of an image and of the joint state, s; 0 in
            lockstep, where each image is waited for.
        history: images of a camera that the policy keeps.
    """

    cameras: tuple[CameraSpec, ...] = ()
    transport: str = "raw"
    max_age_s: float = 0.2
    history: int = 1


def vision_of(policy: Policy, transport: str, max_age_s: float) -> Vision:
    """Cameras of a policy.

    Args:
        policy: the policy.
        transport: one of :data:`realign_policy.images.TRANSPORTS`.
        max_age_s: see :class:`Vision`.
    """
    history = policy.model.spec.observation_horizon if isinstance(policy, PlanningPolicy) else 1
    return Vision(
        cameras=cameras_of(policy),
        transport=transport,
        max_age_s=max_age_s,
        history=history,
    )


class Sensing:
    """Subscriptions of a policy, and what came last on each.

    Args:
        node: the node that listens.
        robot: the robot.
        needs: see :attr:`policies.interface.PolicySpec.needs`.
        slack_s: largest distance between the stamps of one observation's parts, s.
        group: who serves the subscriptions.
        on_data: called after each message.
        vision: cameras, and how their images come.

    Raises:
        InputError: no such image transport.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        needs: tuple[str, ...],
        *,
        slack_s: float,
        group: DataGroup,
        on_data: Callable[[], None],
        vision: Vision | None = None,
    ) -> None:
        self._node, self._robot, self._needs = node, robot, needs
        self._slack_ns = round(slack_s * 1e9)
        self._on_data = on_data
        self._names = wire.NameMap(robot.joint_names, "joint_states")
        self._state: tuple[int, JointState] | None = None
        self._imu: tuple[int, Imu] | None = None
        self._goal: np.ndarray | None = None
        self._vision = vision or Vision()
        keep = self._vision.history + 1  # and the one that is decoded for this tick
        self._cameras = [CameraStream(camera, keep=keep) for camera in self._vision.cameras]
        self._pictures = [PictureWatch() for _ in self._cameras]
        listen: list[tuple[Any, str, Callable[[Any], None], QoSProfile]] = [
            (JointState, "joint_states", self._on_state, QOS)
        ]
        if robot.floating_base:
            listen.append((Imu, "imu", self._on_imu, QOS))
        if "goal" in needs:
            listen.append((PoseStamped, "goal", self._on_goal, LATCHED_NEWEST))
        listen += [
            self._listen_to(*pair) for pair in zip(self._cameras, self._pictures, strict=True)
        ]
        self.subscriptions = [
            node.create_subscription(kind, topic, callback, qos, callback_group=group)
            for kind, topic, callback, qos in listen
        ]

    def close(self) -> None:
        """Listen no more."""
        for subscription in self.subscriptions:
            self._node.destroy_subscription(subscription)

    def stamp_ns(self) -> int | None:
        """Stamp of the newest joint state, or None while a part of its observation is missing."""
        if self._state is None:
            return None
        stamp = self._state[0]
        if self._robot.floating_base and (
            self._imu is None or abs(self._imu[0] - stamp) > self._slack_ns
        ):
            return None  # the other half of the observation is still on its way
        if "goal" in self._needs and self._goal is None:
            return None
        return None if self.blind() else stamp

    def blind(self) -> list[str]:
        """What is wrong with cameras, a sentence each: no recent image, or always the same one."""
        if self._state is None:
            return []
        (stamp_ns, state), max_age_s = self._state, self._vision.max_age_s
        positions = np.asarray(state.position) if self._cameras else np.zeros(0)
        said = []
        for stream, pictures in zip(self._cameras, self._pictures, strict=True):
            topic = topic_of(stream.camera.name, self._vision.transport)
            if pictures.is_silent(stamp_ns, max_age_s):
                said.append(f"no recent image on {topic}; start the camera or remap the topic")
            elif max_age_s > 0.0 and pictures.is_frozen(stamp_ns, positions):
                said.append(f"{topic} repeats one image though the robot moves; restart the camera")
        return said

    def observation(self) -> Observation:
        """The newest observation; :meth:`stamp_ns` must have said that there is one.

        Raises:
            InputError: the joint state has not the joints of the robot, or an image is of another
                size or encoding.
        """
        assert self._state is not None
        stamp, state = self._state
        qpos, qvel, effort = wire.joint_state_to_numpy(state, self._names)
        observation = Observation(
            stamp_ns=stamp, qpos_rad=qpos, qvel_rad_s=qvel, effort_nm=effort, goal=self._goal
        )
        if self._imu is not None:
            observation.base_quat_wxyz = wire.quat_wxyz(self._imu[1].orientation)
            observation.base_ang_vel_rad_s = wire.vector(self._imu[1].angular_velocity)
        observation.images = {stream.camera.name: stream.rgb() for stream in self._cameras}
        return observation

    def _listen_to(
        self, stream: CameraStream, pictures: PictureWatch
    ) -> tuple[Any, str, Callable[[Any], None], QoSProfile]:
        vision = self._vision
        kind = CompressedImage if vision.transport == "compressed" else Image
        topic = topic_of(stream.camera.name, vision.transport)

        def on_image(message: Any) -> None:
            stream.take(message)
            stamp_ns = wire.stamp_to_ns(message.header.stamp)
            if vision.max_age_s > 0.0:
                pictures.take(stamp_ns, message.data)
            else:  # it has been waited for
                pictures.take(stamp_ns)
                self._on_data()

        return kind, topic, on_image, IMAGE_QOS if vision.max_age_s > 0.0 else QOS

    def _on_state(self, msg: JointState) -> None:
        self._state = wire.stamp_to_ns(msg.header.stamp), msg
        self._on_data()

    def _on_imu(self, msg: Imu) -> None:
        self._imu = wire.stamp_to_ns(msg.header.stamp), msg
        self._on_data()

    def _on_goal(self, msg: PoseStamped) -> None:
        self._goal = wire.vector(msg.pose.position)
        self._on_data()
