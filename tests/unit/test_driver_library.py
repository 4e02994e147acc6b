"""What the drivers share: commands and sensors on the wire, tasks, processes, progress."""

import argparse
import json
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.errors import InputError
from policies.robots import GO2, SO101
from policies.runtime.packets import Closed
from realign_driver import commands as commands_module
from realign_driver.commands import PolledCommands
from realign_driver.emulation import add_robot_options, play
from realign_driver.polling import take_newest
from realign_driver.progress import Progress
from realign_driver.qos import LATCHED
from realign_driver.records import OutgoingRecord
from realign_driver.robot_process import RobotProcess
from realign_driver.sensors import ImuPublisher, JointStatePublisher
from realign_driver.task import TaskPublisher, draw_goals

pytestmark = pytest.mark.ros
TARGET = np.linspace(-0.5, 0.5, SO101.n)


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("library")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def trajectory(target=TARGET, names=SO101.joint_names, stamp_ns=5, from_start_s=0.0, points=1):
    message = JointTrajectory(joint_names=list(names))
    wire.set_stamp(message.header.stamp, stamp_ns)
    for k in range(points):
        point = JointTrajectoryPoint(positions=wire.doubles(target))
        wire.set_stamp(point.time_from_start, round((from_start_s + 0.02 * k) * 1e9))
        message.points.append(point)
    return message


def damping(n=SO101.n):
    return JointTrajectory(
        joint_names=list(SO101.joint_names), points=[JointTrajectoryPoint(velocities=[0.0] * n)]
    )


@pytest.fixture
def tell(node, monkeypatch):
    """Sends a message; the command that ``PolledCommands`` reads, and whether it unpacked it."""
    commands, unpacked = PolledCommands(node, SO101), []
    publisher = node.create_publisher(JointTrajectory, "joint_command", 10)
    unpack, subscription = commands._unpack, commands._subscription
    monkeypatch.setattr(commands, "_unpack", lambda data: unpacked.append(1) or unpack(data))
    until(lambda: commands.connected and publisher.get_subscription_count())
    assert commands.newest() is None

    def tell(message):
        unpacked.clear()
        publisher.publish(message)
        data = until(lambda: take_newest(subscription))
        monkeypatch.setattr(commands_module, "take_newest", lambda _: data)
        return commands.newest(), bool(unpacked)

    return tell


def until(condition):
    """What the condition gives when it is true at last."""
    deadline = time.monotonic() + 30.0
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return value


def test_only_the_first_of_equal_commands_is_unpacked(tell):
    for k in range(5):
        command, unpacked = tell(trajectory(TARGET + 0.01 * k, stamp_ns=10**18 + k))
        assert unpacked is (k == 0)
        assert command.stamp_ns == 10**18 + k
        np.testing.assert_array_equal(command.target_rad, TARGET + 0.01 * k)


def test_commands_in_another_order_are_sorted_by_name(tell):
    for names in (SO101.joint_names[::-1], SO101.joint_names):
        order = [names.index(name) for name in SO101.joint_names]
        for unpacked in (True, False):
            assert tell(trajectory(names=names))[1] is unpacked
            np.testing.assert_array_equal(
                tell(trajectory(names=names))[0].target_rad, TARGET[order]
            )
            if unpacked:
                assert not tell(trajectory(TARGET * 2, names))[1]


def test_stop_between_commands(tell):
    tell(trajectory())
    assert tell(damping())[0].target_rad is None
    assert tell(trajectory())[0].target_rad is not None


@pytest.mark.parametrize(
    "bad",
    [
        trajectory(from_start_s=0.5),  # of the form that is known by then
        trajectory(TARGET[:-1]),
        trajectory(names=[*SO101.joint_names[:-1], "grapple"]),
        JointTrajectory(joint_names=list(SO101.joint_names)),
    ],
)
def test_what_does_not_fit_is_no_command(tell, bad):
    assert tell(trajectory())[0] is not None
    assert tell(bad)[0] is None
    command, _ = tell(trajectory())
    np.testing.assert_array_equal(command.target_rad, TARGET)


def test_plan_gives_its_first_point(tell):
    for _ in range(2):
        command, unpacked = tell(trajectory(points=3))
        assert unpacked
        np.testing.assert_array_equal(command.target_rad, TARGET)


def test_outgoing_record_is_what_ros_would_send():
    message = JointState(name=["a", "long_name"], position=[0.0, 0.0])
    message.header.frame_id = "base"
    record = OutgoingRecord(message, "sensor_msgs/msg/JointState")
    for k in (1, 2):
        record.fields["position"] = [0.1 * k, -k]
        message.position = [0.1 * k, -k]
        wire.set_stamp(message.header.stamp, 1_700_000_000_999_999_999 + k)
        sent = record.stamped(1_700_000_000_999_999_999 + k)
        assert deserialize_message(sent, JointState) == message
        assert len(sent) == len(serialize_message(message))
        padding = sent.index(b"long_name") - 6  # after "a", before the length of the next name
        assert sent[padding : padding + 2] == b"\0\0"


def sent_by(publisher, kind):
    """Messages that a publisher of ours sends from now on."""
    sent = []
    publisher._publisher = type("", (), {"publish": lambda _, m: sent.append(m)})()
    return lambda: [deserialize_message(m, kind) for m in sent]


def test_sensors_carry_names_frame_stamp_and_ros_order(node):
    states, imu = JointStatePublisher(node, GO2), ImuPublisher(node, GO2)
    joints, felt = sent_by(states, JointState), sent_by(imu, Imu)
    q, dq, tau = GO2.default_rad, np.arange(12.0), -np.arange(12.0)
    states.publish(3_000_000_007, q, dq, tau)
    quat = np.array([0.5, 0.1, 0.2, 0.3], dtype=np.float32)
    imu.publish(3_000_000_007, quat, np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.1, 9.8]))
    (joint,), (motion,) = joints(), felt()
    assert joint.name == list(GO2.joint_names)
    assert joint.header == motion.header
    assert (joint.header.stamp.sec, joint.header.stamp.nanosec) == (3, 7)
    assert joint.header.frame_id == GO2.base_body
    for values, field in ((q, "position"), (dq, "velocity"), (tau, "effort")):
        np.testing.assert_array_equal(getattr(joint, field), values)
    np.testing.assert_array_equal(wire.quat_wxyz(motion.orientation), quat.astype(float))
    assert wire.vector(motion.angular_velocity).tolist() == [1.0, 2.0, 3.0]
    assert wire.vector(motion.linear_acceleration).tolist() == [0.0, 0.1, 9.8]
    assert not motion.orientation_covariance.any()


def test_task_is_one_episode_for_each_goal(node):
    heard: list = []
    for topic, kind in (("goal", PoseStamped), ("episode", Header)):
        node.create_subscription(kind, topic, heard.append, LATCHED)
    goals = draw_goals(SO101, 2, seed=3)
    task = TaskPublisher(node, SO101, goals, 1.5)
    assert task.duration_s == 3.0
    for elapsed in (0.0, 0.5, 1.4, 1.5, 2.9, 3.0, 7.0):
        task.publish(10**9 + round(elapsed * 1e9), elapsed)
    deadline = time.monotonic() + 30.0
    while len(heard) < 4:
        assert time.monotonic() < deadline
        rclpy.spin_once(node, timeout_sec=0.1)
    said = [h for h in heard if isinstance(h, PoseStamped)]
    np.testing.assert_allclose([wire.vector(p.pose.position) for p in said], goals)
    markers = [h for h in heard if isinstance(h, Header)]
    assert [m.frame_id.partition(" reach ")[0] for m in markers] == ["0", "1"]
    assert [wire.stamp_to_ns(m.stamp) for m in markers] == [10**9, 2_500_000_000]


def test_robot_without_an_end_effector_has_one_episode_and_no_goals(node):
    task = TaskPublisher(node, GO2, draw_goals(GO2, 0, 0), 4.0)
    assert task.duration_s == 0.0
    assert "goal" not in {publisher.topic for publisher in node.publishers}
    with pytest.raises(InputError, match="end effector"):
        draw_goals(GO2, 1, 0)


def test_run_begins_with_the_first_command_and_says_how_far_it_is(capsys):
    progress = Progress(2.0, aloud=True)
    for k in range(4):
        progress.stamp_ns = 10**9 * (k + 1)
        if k:
            progress.begin()
        if k == 2:
            progress.tell()
            progress.tell()  # not before a tenth of a second
    assert progress.elapsed_s == 2.0
    assert progress.done
    progress.fault("the robot is silent")
    assert capsys.readouterr().out == "progress 1.00 2.00\nfault the robot is silent\n"
    assert not Progress(0.0, aloud=True).done


@dataclass(frozen=True, kw_only=True)
class EchoConfig:
    """What the process below must know."""

    times: int
    channel_fd: int = -1


NUMBER = np.dtype([("value", "<i8")])


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """Starts a process that answers a number with ``times`` greater ones, and then ends."""
    (tmp_path / "echo_for_test.py").write_text(
        "import json, socket, sys, time, numpy as np\n"
        "config = json.loads(sys.argv[1])\n"
        "end = socket.socket(fileno=config['channel_fd'])\n"
        "(value,) = np.frombuffer(end.recv(64), '<i8')\n"
        "for k in range(config['times']):\n"
        "    end.send(np.array([value + k]).tobytes())\n"
        "if not config['times']:\n"
        "    end.send(np.array([value]).tobytes())\n"
        "    time.sleep(60.0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []

    def start(times, **more):
        started.append(RobotProcess("echo_for_test", EchoConfig(times=times), **more))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait()


def number(value):
    return np.array([(value,)], dtype=NUMBER)[0]


def test_last_packet_of_a_process_is_read_before_its_end(echo):
    process = echo(times=3)
    assert process.send(number(7))
    process.wait(60.0)
    assert process.newest(NUMBER)["value"] == 9
    with pytest.raises(Closed):
        process.newest(NUMBER)
    assert not process.send(number(7))


def test_hanging_process_is_killed(echo):
    process = echo(times=0, hangs_s=1.0)
    assert process.newest(NUMBER) is None
    process.send(number(4))
    assert process.newest(NUMBER, wait_s=60.0)["value"] == 4
    assert process.newest(NUMBER) is None
    time.sleep(1.0)
    with pytest.raises(Closed):
        process.newest(NUMBER)
    assert process.popen.wait() == -signal.SIGKILL


class Played:
    """An emulator that has nothing to do."""

    def __init__(self, seed):
        if seed < 0:
            raise InputError("expected a seed from 0 on, got less")
        self.seed, self.ran = seed, False

    def run(self):
        self.ran = signal.getsignal(signal.SIGINT) == self.stop

    def stop(self, *_):
        pass

    def summary(self):
        return {"ran": self.ran}

    def columns(self):
        return {"seed": np.array([self.seed])}


@pytest.fixture
def keep_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("keep_signals")
def test_emulator_leaves_what_was_asked_for(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_robot_options(parser, faults="silent@2")
    files = [f"--summary={tmp_path / 's.json'}", f"--trace={tmp_path / 't.npz'}"]
    given = parser.parse_args([*files, "--seed=5"])
    assert play(lambda: Played(given.seed), given).seed == 5
    assert json.loads((tmp_path / "s.json").read_text()) == {"ran": True}
    with np.load(tmp_path / "t.npz") as trace:
        assert trace["seed"].tolist() == [5]
    with pytest.raises(SystemExit) as ended:
        play(lambda: Played(-1), parser.parse_args([]))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "realign: expected a seed from 0 on, got less\n"
