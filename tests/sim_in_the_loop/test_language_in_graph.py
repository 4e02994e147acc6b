"""A policy that is told in words and sees two cameras, in the policy node and behind a server.

It is tiny and has learnt next to nothing: what counts is whether the same is seen and told, which
shows bit for bit in lockstep.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.config import NetworkConfig
from policies.errors import InputError
from policies.robots import PANDA
from policies.vla.commands import save_trained
from policies.vla.network import PATCH
from policies.vla.trainer import VlaTrainConfig, train_vla
from sim2real.bags.reader import read_bag
from sim2real.graph import Graph
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.serve_cli import local_policy

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
UP, DOWN = "go up", "go down"
CAMERAS = ("front", "hand")
RATE_HZ, HORIZON, ACTION_HORIZON, DELAY = 10.0, 6, 2, 1
DURATION_S = 2.5
LIMIT_S = 60.0


def fake_encoder(text: str) -> np.ndarray:
    """Three vectors that depend on every letter, in half precision."""
    rng = np.random.default_rng(list(text.encode()))
    return rng.standard_normal((3, 16)).astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Weights after a few steps on an arm that sways: all of them differ from zero."""
    rng = np.random.default_rng(0)
    told, frames = [UP, DOWN], 12
    states = [PANDA.default_rad + rng.normal(0.0, 0.01, (frames, PANDA.n)) for _ in told]
    size = (frames, 2 * PATCH, 2 * PATCH, 3)
    data = Demonstrations(
        state_names=tuple(f"qpos/{name}" for name in PANDA.joint_names),
        action_names=tuple(f"position/{name}" for name in PANDA.joint_names),
        rate_hz=RATE_HZ,
        state=states,
        action=[state + rng.normal(0.0, 0.01, state.shape) for state in states],
        images={
            name: [rng.integers(256, size=size, dtype=np.uint8) for _ in told] for name in CAMERAS
        },
        task=told,
    )
    config = VlaTrainConfig(
        name="nervous",
        network=NetworkConfig(type="transformer", width=32, depth=1),
        context_depth=1,
        observation_horizon=2,
        prediction_horizon=HORIZON,
        action_horizon=ACTION_HORIZON,
        steps=6,
        batch=4,
        learning_rate=3e-3,
        device="cpu",
    )
    binding = bind_robot(data.state_names, data.action_names, PANDA.default_rad, PANDA)
    trained = train_vla({"panda": data}, config, robots={"panda": binding}, encoder=fake_encoder)
    path = tmp_path_factory.mktemp("told") / "nervous"
    assert save_trained(trained, path, overwrite=False)["passed"]
    return path


@contextmanager
def served(policy: Path) -> Iterator[Path]:
    """The description of a policy behind ``realign serve`` in a process of its own."""
    words = ["serve", "--policy", str(policy), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2real.cli", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().split()[-1]
        with local_policy(url, token_file=None, reply_s=LIMIT_S) as folder:
            yield folder
    finally:
        process.terminate()
        process.wait(30.0)
        process.stdout.close()


@pytest.fixture(params=["here", "served"])
def policy(request, checkpoint) -> Iterator[Path]:
    """The policy as `realign run` gets it: its checkpoint, or the description of a server."""
    if request.param == "here":
        yield checkpoint
        return
    with served(checkpoint) as folder:
        yield folder


def chunks_of(policy: Path, domain: int, bag: Path) -> dict[int, np.ndarray]:
    """Stamp, ns, of each chunk of a run -> its positions, (steps, joints)."""
    config = RunConfig(
        robot="panda",
        policy=policy,
        instruction=UP,
        lockstep=True,
        duration_s=DURATION_S,
        record=bag,
        record_images="none",
        domain_id=domain,
        executor="async",
        inference_delay=DELAY,
    )
    result = run(config, progress=False)
    assert result["completed"], result
    columns = read_bag(bag).columns("/action_chunk")
    positions = columns.arrays["position"]
    return dict(zip(columns.stamp_ns.tolist(), positions, strict=True))


@pytest.fixture(scope="module")
def told_once(checkpoint, tmp_path_factory) -> dict[int, np.ndarray]:
    """Chunks of the policy in the node that is told one thing."""
    bag = tmp_path_factory.mktemp("told_once") / "bag"
    return chunks_of(checkpoint, int(os.environ["ROS_DOMAIN_ID"]), bag)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def test_a_served_policy_that_sees_and_is_told_does_as_the_one_in_the_node(
    checkpoint, told_once, tmp_path, domain
):
    with served(checkpoint) as described:
        there = chunks_of(described, domain, tmp_path / "there")
        with pytest.raises(InputError, match="--instruction"):
            run(RunConfig(robot="panda", policy=described), progress=False)
    common = told_once.keys() & there.keys()
    assert len(common) >= DURATION_S * RATE_HZ - 2
    assert all(same(told_once[stamp], there[stamp]) for stamp in common)
    moved = np.array([positions[0] for positions in there.values()])
    assert np.ptp(moved, axis=0).max() > 0.001, "it moves"


class Teller:
    """Stops the simulated time in the middle of a run, says something else, and goes on.

    Attributes:
        stamp_ns: of the last chunk before it was said; every later one knows it.
    """

    def __init__(self, domain: int, graphs: list[Graph]) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from std_msgs.msg import String
        from trajectory_msgs.msg import JointTrajectory

        from policies.messages import stamp_to_ns

        self.graphs, self.stamp_ns = graphs, 0
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("teller", context=self.context)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        words = self.node.create_publisher(String, "/policy/instruction", latched)
        self.say = lambda text: words.publish(String(data=text))
        self.seen_ns: list[int] = []

        def on_chunk(message) -> None:
            self.seen_ns.append(stamp_to_ns(message.header.stamp))

        self.node.create_subscription(JointTrajectory, "/action_chunk", on_chunk, 100)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.spinning = threading.Thread(target=self._spin)
        self.acting = threading.Thread(target=self._act)

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def _act(self) -> None:
        self._wait(lambda: len(self.seen_ns) >= 3)
        driver = self._process("driver")
        os.kill(driver.popen.pid, signal.SIGSTOP)
        try:
            count = -1
            while count != len(self.seen_ns):  # what was on its way has come
                count = len(self.seen_ns)
                time.sleep(1.0)
            self.stamp_ns = self.seen_ns[-1]
            self.say(DOWN)
            heard = f"instruction: '{DOWN}'"
            self._wait(lambda: heard in self._process("policy").log.read_text(errors="replace"))
        finally:
            os.kill(driver.popen.pid, signal.SIGCONT)

    def _process(self, name: str):
        return next(p for graph in self.graphs for p in graph.processes if p.name == name)

    @staticmethod
    def _wait(condition) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> Teller:
        self.spinning.start()
        self.acting.start()
        return self

    def __exit__(self, *_) -> None:
        self.acting.join()
        self.executor.shutdown()
        self.spinning.join(10.0)
        self.node.destroy_node()
        self.context.try_shutdown()


def test_another_instruction_takes_effect_within_one_chunk(
    policy, told_once, tmp_path, domain, graphs
):
    with Teller(domain, graphs) as teller:
        told_twice = chunks_of(policy, domain, tmp_path / "bag")
    common = sorted(told_once.keys() & told_twice.keys())
    others = [stamp for stamp in common if not same(told_once[stamp], told_twice[stamp])]
    within_ns = round((ACTION_HORIZON + DELAY) * 1e9 / RATE_HZ)
    assert others, "nothing came of it"
    assert teller.stamp_ns < others[0] <= teller.stamp_ns + within_ns
    assert others == [stamp for stamp in common if stamp >= others[0]]
