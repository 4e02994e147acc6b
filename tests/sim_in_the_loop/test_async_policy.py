"""Slow, served and broken policies in the graph of the Panda virtual robot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.server import serve

import policies
from policies.checkpoint import load_policy
from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.checkpoint import save_chunk_model
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.config import SAMPLERS, NetworkConfig
from policies.diffusion.export import export_onnx
from policies.diffusion.trainer import TrainConfig, train_model
from policies.errors import FaultError, InputError
from policies.robots import PANDA
from policies.serving.protocol import Served, dump_served
from policies.serving.wire import pack, unpack
from sim2real import cli
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.serve_cli import local_policy

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]

REACH = Path(policies.__file__).parent / "checkpoints" / "panda_reach"
HORIZON = 24
# What the guard notices first; the other two on a machine under load.
SILENCE = ("policy_silent", "state_silent", "overrun")


def swaying(quantity: str) -> Demonstrations:
    """An arm that sways about its default pose: enough to have something to say."""
    rng = np.random.default_rng(0)
    t = np.arange(80) * 0.02
    states, actions = [], []
    for _ in range(8):
        phase, rate = rng.uniform(0.0, 6.28, 7), rng.uniform(1.0, 2.0, 7)
        q = PANDA.default_rad + 0.05 * np.sin(t[:, None] * rate + phase)
        speed = 0.05 * rate * np.cos(t[:, None] * rate + phase)
        states.append(np.hstack([q, speed]))
        actions.append(q if quantity == "position" else speed)
    names = PANDA.joint_names
    return Demonstrations(
        state_names=(*(f"qpos/{n}" for n in names), *(f"qvel/{n}" for n in names)),
        action_names=tuple(f"{quantity}/{n}" for n in names),
        rate_hz=50.0,
        state=states,
        action=actions,
        images={},
        task=["sway"] * 8,
    )


def train(folder: Path, kind: str, quantity: str = "velocity") -> Path:
    demonstrations = swaying(quantity)
    config = TrainConfig(
        kind=kind,
        name=f"sway_{kind}",
        network=NetworkConfig(width=32, depth=1),
        prediction_horizon=HORIZON,
        action_horizon=8,
        steps=60,
        batch=32,
    )
    first = np.mean([rows[0] for rows in demonstrations.state], axis=0)
    names = demonstrations.state_names, demonstrations.action_names
    trained = train_model(demonstrations, config, robot=bind_robot(*names, first, PANDA))
    out = folder / f"{kind}_{quantity}"
    save_chunk_model(
        out, trained.config, export_onnx(trained.config, trained.network, trained.codes)
    )
    return out


def carry_out(policy, domain, **changes):
    config = {"lockstep": True, "duration_s": 1.0, **changes}
    return run(RunConfig(robot="panda", policy=policy, domain_id=domain, **config), progress=False)


def of_bag(bag: Path, topic: str = "/joint_command") -> tuple[np.ndarray, np.ndarray]:
    """Stamps, s, and first positions of the commands in a bag, (T,) and (T, n).

    A message that was asked for again, on a machine under load, counts once.
    """
    columns = read_bag(bag).columns(topic)
    stamps, first = np.unique(columns.stamp_ns, return_index=True)
    return stamps / 1e9, columns.arrays["position"][first, 0]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_kind_of_policy_runs_on_the_panda(kind, tmp_path, domain):
    result = carry_out(
        train(tmp_path, kind), domain, executor="rtc", inference_delay=2, record=tmp_path / "bag"
    )
    assert result["completed"], result["transitions"]
    assert result["guard"]["refused"] == 0
    assert result["policy_failure"] is None
    assert result["policy"] == f"sway_{kind}"
    _, positions = of_bag(tmp_path / "bag")
    assert np.ptp(positions, axis=0).max() > 0.005, "it moved"


@pytest.fixture(scope="module")
def sway(tmp_path_factory):
    """A flow policy that plans half a second ahead: positions, which can jump between chunks."""
    return train(tmp_path_factory.mktemp("sway"), "flow", "position")


def test_policy_with_200_ms_neither_stalls_nor_jumps_with_real_time_chunking(
    sway, tmp_path, domain
):
    """Ten steps of 20 ms between each observation and the use of its answer."""
    standing = {}
    for executor in ("receding", "rtc"):
        bag = tmp_path / executor
        result = carry_out(
            sway, domain, executor=executor, inference_delay=10, record=bag, duration_s=2.0, seed=4
        )
        assert result["completed"], result["transitions"]
        stamps, positions = of_bag(bag)
        period = 1.0 / PANDA.control_rate_hz
        np.testing.assert_allclose(np.diff(stamps), period, atol=1e-9)  # no command is missing
        velocity = np.diff(positions, axis=0) / period
        assert np.all(np.abs(velocity) <= PANDA.velocity_limit_rad_s + 1e-9)
        acceleration = np.diff(velocity, axis=0) / period
        assert np.all(np.abs(acceleration) <= PANDA.array("acceleration_limit_rad_s2") + 1e-6)
        wanted = of_bag(bag, "/action_chunk")[1][20:]  # the first answer has come
        standing[executor] = float(np.mean(np.all(np.diff(wanted, axis=0) == 0.0, axis=1)))
    assert standing["receding"] > 0.4
    assert standing["rtc"] == 0.0


def test_run_with_a_counted_delay_is_bit_reproducible(sway, tmp_path, domain):
    bags = []
    for k in range(2):
        bag = tmp_path / f"bag{k}"
        options = {"executor": "rtc", "inference_delay": 4, "seed": 3, "record": bag}
        result = carry_out(sway, domain, action_horizon=2, in_flight=2, fade=0, **options)
        assert result["completed"]
        bags.append(read_bag(bag))
    for topic in ("/joint_states", "/joint_command", "/action_chunk"):
        first, second = (bag.columns(topic) for bag in bags)
        # A message may be asked for again, and the recorder may miss the last one of a run.
        common = np.intersect1d(first.stamp_ns, second.stamp_ns)
        assert len(common) >= 49
        rows = [np.searchsorted(columns.stamp_ns, common) for columns in (first, second)]
        for key, values in first.arrays.items():
            other = second.arrays[key][rows[1]]
            assert np.array_equal(values[rows[0]], other, equal_nan=True), (topic, key)


# ---- policies that are served -------------------------------------------------------------------


@contextmanager
def server_process(policy: Path):
    """``realign serve`` in a process of its own: its address and the process."""
    words = ["serve", "--policy", str(policy), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2real.cli", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait(30.0)
        process.stdout.close()


def test_served_policy_runs_as_the_same_policy_in_the_node(sway, tmp_path, domain):
    options = {"executor": "rtc", "inference_delay": 3, "seed": 2}
    carry_out(sway, domain, record=tmp_path / "here", **options)
    with (
        server_process(sway) as (url, process),
        local_policy(url, token_file=None, reply_s=20.0) as described,
    ):
        result = carry_out(described, domain, record=tmp_path / "there", **options)
        assert result["completed"]
        process.terminate()
        assert process.wait(30.0) == 0
    here, there = (of_bag(tmp_path / name)[1] for name in ("here", "there"))
    rows = min(len(here), len(there))
    assert rows >= 98
    assert np.array_equal(here[:rows], there[:rows])


def test_killed_server_brakes_the_robot_and_the_run_ends_with_code_3(
    tmp_path, domain, when_moving, capsys
):
    with server_process(REACH) as (url, process):
        when_moving(lambda graph: os.kill(process.pid, signal.SIGKILL))
        words = ["run", "--robot", "panda", "--policy", url, "--goals", "1"]
        words += ["--domain-id", str(domain), "--json", str(tmp_path / "run.json")]
        words += ["--record", str(tmp_path / "bag")]
        assert cli.main(words) == 3
    result = json.loads((tmp_path / "run.json").read_text())
    assert result["policy_failure"]["kind"] == "server_lost"
    assert url in capsys.readouterr().err
    assert [edge[2] for edge in result["transitions"]][-2:] == ["hold", "damp"]
    assert result["stopped_by"] in SILENCE
    _, positions = of_bag(tmp_path / "bag")
    assert np.ptp(positions[-50:], axis=0).max() < 1e-6, "it stands"


@contextmanager
def scripted_reach(answer):
    """A server of the reach policy whose ``answer(asked)`` is sent; gives its address."""
    policy = load_policy(REACH, PANDA)
    served = Served(spec=policy.model.spec, robot=policy.model.robot, sha256=policy.spec.sha256)
    asked = []

    def handle(connection):
        connection.send(pack(dump_served(served)))
        for data in connection:
            question = unpack(data)
            if "reset" not in question:
                asked.append(question)
                question = {"actions": answer(asked), "request_id": question["request_id"]}
            connection.send(pack(question))

    server = serve(handle, "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with local_policy(url, token_file=None, reply_s=20.0) as described:
            yield described, asked
    finally:
        server.shutdown()
        thread.join(10.0)


class Operator:
    """Reads ``/diagnostics`` of the policy, and says what it shall do."""

    def __init__(self, domain: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from std_msgs.msg import String

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("operator", context=self.context)
        self.health: list = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        words = self.node.create_publisher(String, "/policy/instruction", latched)
        self.say = lambda text: words.publish(String(data=text))
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_health, 50)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin)

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def _on_health(self, message) -> None:
        self.health += [s for s in message.status if s.name == "realign policy"]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.executor.shutdown()
        self.thread.join(10.0)
        self.node.destroy_node()
        self.context.try_shutdown()


def test_server_that_lies_in_the_middle_of_a_run_is_a_fault_with_a_name(domain):
    """The node lives on, silent, and tells why: not a number would have been a command."""

    def answer(asked):
        return np.full((7, 7), np.nan if len(asked) == 8 else 0.0)

    with Operator(domain) as operator, scripted_reach(answer) as (described, asked):
        result = carry_out(described, domain, lockstep=False, duration_s=3.0)
    failure = result["policy_failure"]
    assert failure["kind"] == "bad_answer"
    assert "NaN" in failure["text"]
    assert result["stopped_by"] in SILENCE
    assert result["transitions"][-1][2] == "damp"
    assert len(asked) == 8, "nobody asks on by himself"
    told = next(s for s in reversed(operator.health) if s.level == s.ERROR)
    assert told.message == failure["text"]
    figures = {entry.key: json.loads(entry.value) for entry in told.values}
    assert figures["failure"] == failure
    assert figures["answers"] > 0
    assert set(figures["inference_ms"]) == {"p50", "p95", "p99"}
    assert {"delay_steps", "dropped_answers", "held_steps", "stalls"} <= set(figures)


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
def test_policy_that_fails_before_its_first_answer_ends_the_run_at_once(domain, lockstep):
    def answer(asked):
        return np.full((7, 7), np.nan if len(asked) > 1 else 0.0)  # the first one is the start's

    with (
        scripted_reach(answer) as (described, _),
        pytest.raises(FaultError, match=r"policy process ended early.*NaN") as failed,
    ):
        carry_out(described, domain, lockstep=lockstep)
    assert "Traceback" not in str(failed.value)


def test_new_instruction_reaches_the_model_while_it_runs(domain):
    with Operator(domain) as operator:

        def answer(asked):
            if len(asked) == 6:  # the first one is that of the start
                operator.say("to the right")
            time.sleep(0.1 if len(asked) > 6 else 0.0)
            return np.zeros((7, 7))

        with scripted_reach(answer) as (described, asked):
            result = carry_out(described, domain, duration_s=2.0, instruction="to the left")
    assert result["completed"]
    told = [question.get("prompt") for question in asked]
    assert told[0] is None
    assert told[1:6] == ["to the left"] * 5
    assert told[-1] == "to the right"
    assert told[1:] == sorted(told[1:])


def test_server_that_is_not_there_is_bad_input(capsys, monkeypatch):
    monkeypatch.setattr("sim2real.serve_cli.CONNECT_S", 0.2)
    words = ["run", "--robot", "panda", "--policy", "ws://127.0.0.1:9"]
    assert cli.main(words) == 2
    assert "ws://127.0.0.1:9" in capsys.readouterr().err


def test_policy_that_is_told_in_words_wants_an_instruction(monkeypatch):
    policy = load_policy(REACH, PANDA)
    policy.spec = dataclasses.replace(policy.spec, needs=("goal", "instruction"))
    monkeypatch.setattr("policies.checkpoint.load_policy", lambda path, robot: policy)
    with pytest.raises(InputError, match="--instruction"):
        run(RunConfig(robot="panda", policy=REACH), progress=False)


def test_executor_of_plans_is_refused_for_a_policy_that_does_not_plan(
    asap_checkpoints, domain, capsys
):
    words = ["run", "--robot", "g1", "--policy", str(asap_checkpoints["kick_level1"])]
    words += ["--executor", "rtc", "--lockstep", "--domain-id", str(domain)]
    assert cli.main(words) == 2
    assert "--executor" in capsys.readouterr().err
