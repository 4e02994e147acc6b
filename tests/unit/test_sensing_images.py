"""What a policy node sees of its cameras: images of the right age, of either transport."""

from __future__ import annotations

import time

import numpy as np
import pytest

from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.messages import set_stamp
from policies.robots import PANDA

pytestmark = pytest.mark.ros
FRONT = CameraSpec(name="front", height=24, width=32)
HAND = CameraSpec(name="hand", height=16, width=16)
RED = np.tile(np.array([250, 20, 20], np.uint8), (24, 32, 1))
GREEN = np.tile(np.array([20, 250, 20], np.uint8), (16, 16, 1))
MS = 1_000_000


class Graph:
    """A listener, and somebody who publishes joint states and images."""

    def __init__(self, context, transport="raw", max_age_s=0.1):
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from realign_mujoco_driver.cameras import QOS, TOPICS, compressed_message, image_message
        from realign_policy import sensing
        from sensor_msgs.msg import JointState

        self.node = Node("images", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.calls = 0
        self.kind = JointState
        self.fill = compressed_message if transport == "compressed" else image_message
        vision = sensing.Vision(cameras=(FRONT, HAND), transport=transport, max_age_s=max_age_s)
        self.sensing = sensing.Sensing(
            self.node,
            PANDA,
            (),
            slack_s=0.0,
            group=MutuallyExclusiveCallbackGroup(),
            on_data=self.called,
            vision=vision,
        )
        kind, topic = TOPICS[transport]
        self.states = self.node.create_publisher(JointState, "joint_states", sensing.QOS)
        self.images = {
            camera.name: self.node.create_publisher(kind, f"{camera.name}/{topic}", QOS)
            for camera in (FRONT, HAND)
        }
        publishers = [self.states, *self.images.values()]
        self.spin_until(lambda: all(p.get_subscription_count() for p in publishers))

    def called(self):
        self.calls += 1

    def spin_until(self, done, limit_s=20.0):
        deadline = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < deadline, "nothing came"
            self.executor.spin_once(timeout_sec=0.05)

    def state(self, stamp_ns):
        before = self.calls
        message = self.kind(name=list(PANDA.joint_names))
        set_stamp(message.header.stamp, stamp_ns)
        message.position = PANDA.default_rad.tolist()
        message.velocity = message.effort = [0.0] * PANDA.n
        self.states.publish(message)
        self.spin_until(lambda: self.calls > before)

    def image(self, name, pixels, stamp_ns):
        stream = next(s for s in self.sensing._cameras if s.camera.name == name)
        before = stream.received
        self.images[name].publish(self.fill(pixels, name, stamp_ns))
        self.spin_until(lambda: stream.received > before)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def graph(ros_context):
    """Makes graphs, and ends them."""
    made = []

    def make(**options):
        made.append(Graph(ros_context, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_an_observation_has_the_images_of_its_cameras(graph, transport):
    here = graph(transport=transport)
    here.state(1000 * MS)
    assert here.sensing.stamp_ns() is None
    here.image("front", RED, 990 * MS)
    here.image("hand", GREEN, 1010 * MS)
    assert here.sensing.stamp_ns() == 1000 * MS
    images = here.sensing.observation().images
    assert sorted(images) == ["front", "hand"]
    assert np.abs(images["front"].astype(int) - RED).max() <= (0 if transport == "raw" else 12)
    assert np.abs(images["hand"].astype(int) - GREEN).max() <= (0 if transport == "raw" else 12)


def test_an_image_that_is_too_old_makes_blind(graph):
    here = graph(max_age_s=0.1)
    here.image("front", RED, 1000 * MS)
    here.image("hand", GREEN, 1000 * MS)
    here.state(1100 * MS)
    assert here.sensing.blind() == []
    here.state(1101 * MS)
    front, hand = here.sensing.blind()
    assert "no recent image on front/image_raw" in front
    assert "no recent image on hand/image_raw" in hand
    assert here.sensing.stamp_ns() is None
    here.image("front", RED, 1101 * MS)
    assert here.sensing.blind() == [hand]


def test_in_lockstep_an_image_completes_the_observation(graph):
    here = graph(max_age_s=0.0)
    here.state(5 * MS)
    calls = here.calls
    here.image("front", RED, 5 * MS)
    here.image("hand", GREEN, 5 * MS)
    assert here.calls == calls + 2
    assert here.sensing.stamp_ns() == 5 * MS
    here.state(10 * MS)
    assert here.sensing.stamp_ns() is None


def test_an_image_of_another_size_is_named(graph):
    here = graph()
    here.image("front", RED[:, :16].copy(), 0)
    here.image("hand", GREEN, 0)
    here.state(0)
    with pytest.raises(InputError, match="'front': expected images of 32 x 24 pixels, got 16 x 24"):
        here.sensing.observation()


def test_a_transport_that_is_none(graph):
    from realign_mujoco_driver import cameras

    with pytest.raises(InputError, match="'theora'"):
        cameras.Cameras(None, PANDA, (), rate_hz=1.0, seed=0, transport="theora", threaded=False)
