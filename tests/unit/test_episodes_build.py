"""Bags to episodes: what is cut where, what is refused, and the store on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from policies.errors import InputError
from policies.interface import JointSpec, RobotSpec
from policies.robots import get_robot
from sim2real.bags.definitions import typestore
from sim2real.bags.writer import BagWriter
from sim2real.episodes.align import estimate_latency_s
from sim2real.episodes.build import build_episodes
from sim2real.episodes.cli import episodes_build
from sim2real.episodes.episode import Episode
from sim2real.episodes.store import load_episodes, save_episodes

STORE = typestore()
JOINTS = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ODOMETRY = "nav_msgs/msg/Odometry"
HEADER = "std_msgs/msg/Header"
MS = 1_000_000
T0 = 1_000 * 10**9
NAMES = ("a", "b")
Item = tuple[str, str, int, bytes]  # topic, type, stamp, cdr


def robot(**changes: Any) -> RobotSpec:
    joints = tuple(
        JointSpec(
            name=name,
            lower_rad=-3.0,
            upper_rad=3.0,
            velocity_limit_rad_s=5.0,
            acceleration_limit_rad_s2=10.0,
            effort_limit_nm=50.0,
            default_rad=0.0,
            kp_nm_rad=100.0,
            kd_nm_s_rad=10.0,
            armature_kg_m2=0.1,
            damping_nm_s_rad=1.0,
            friction_nm=0.0,
        )
        for name in NAMES
    )
    return dataclasses.replace(
        get_robot("panda"), name="toy", joints=joints, gripper=None, **changes
    )


TOY = robot()
WALKER = robot(floating_base=True)


def new(msgtype: str, **fields: Any) -> Any:
    return STORE.types[msgtype](**fields)


def header(stamp_ns: int, frame: str = "") -> Any:
    time = new("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return new(HEADER, stamp=time, frame_id=frame)


def f8(values: Sequence[float]) -> Any:
    return np.asarray(values, np.float64)


def state(stamp: int, q: Sequence[float], *, names: Sequence[str] = NAMES, **kw: Any) -> Item:
    topic, velocity, effort = kw.get("topic", "/joint_states"), kw.get("qd", q), kw.get("tau", ())
    message = new(
        JOINTS,
        header=header(stamp),
        name=list(names),
        position=f8(q),
        velocity=f8(velocity),
        effort=f8(effort),
    )
    return topic, JOINTS, stamp, bytes(STORE.serialize_cdr(message, JOINTS))


def command(stamp: int, *points: Sequence[float], velocity: Sequence[float] = ()) -> Item:
    made = [
        new(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=f8(p),
            velocities=f8(velocity),
            accelerations=f8(()),
            effort=f8(()),
            time_from_start=new("builtin_interfaces/msg/Duration", sec=0, nanosec=k * MS),
        )
        for k, p in enumerate(points)
    ]
    message = new(TRAJECTORY, header=header(stamp), joint_names=["b", "a"], points=made)
    return "/joint_command", TRAJECTORY, stamp, bytes(STORE.serialize_cdr(message, TRAJECTORY))


def odom(stamp: int, yaw: float, forward: float = 1.0) -> Item:
    vector = STORE.types["geometry_msgs/msg/Vector3"]
    pose = new(
        "geometry_msgs/msg/Pose",
        position=new("geometry_msgs/msg/Point", x=1.0, y=2.0, z=0.8),
        orientation=new(
            "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=np.sin(yaw / 2), w=np.cos(yaw / 2)
        ),
    )
    twist = new(
        "geometry_msgs/msg/Twist",
        linear=vector(x=forward, y=0.0, z=0.0),
        angular=vector(x=0.0, y=0.0, z=0.5),
    )
    message = new(
        ODOMETRY,
        header=header(stamp),
        child_frame_id="base",
        pose=new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )
    return "/odom", ODOMETRY, stamp, bytes(STORE.serialize_cdr(message, ODOMETRY))


def marker(stamp: int, text: str) -> Item:
    raw = STORE.serialize_cdr(header(stamp, text), HEADER)
    return "/episode", HEADER, stamp, bytes(raw)


def ramp(stop_ms: int, *, start_ms: int = 0, step_ms: int = 5) -> list[Item]:
    """States q = [t, -t] (s) and every 10 ms a command [t / 2, t], in the order of their stamps."""
    items: list[Item] = []
    for ms in range(start_ms, stop_ms + 1, step_ms):
        stamp, t = T0 + ms * MS, ms / 1000
        items.append(state(stamp, [t, -t], qd=[1.0, -1.0]))
        if ms % 10 == 0:
            items.append(command(stamp, [t, t / 2]))  # names are b, a
    return items


def write(path: Path, items: Sequence[Item], **provenance: str) -> Path:
    with BagWriter(path, provenance=provenance) as writer:
        for i, (topic, msgtype, _, cdr) in enumerate(items):
            writer.add_topic(topic, msgtype)
            writer.write(topic, cdr, 7 * 10**9 + i)  # wall time: unrelated to the stamps
    return path


def build(tmp_path: Path, items: Sequence[Item], spec: RobotSpec = TOY, **kw: Any) -> list[Episode]:
    provenance = kw.pop("provenance", {})
    path = write(tmp_path / f"bag{len(list(tmp_path.iterdir()))}", items, **provenance)
    return build_episodes(path, spec, **kw)


def test_states_are_exact_on_the_grid_and_commands_are_held(tmp_path: Path) -> None:
    (episode,) = build(tmp_path, ramp(1000))
    t = np.arange(101) / 100
    np.testing.assert_array_equal(episode.t_s, t)
    np.testing.assert_array_equal(episode.qpos_rad, np.stack([t, -t], 1))
    np.testing.assert_array_equal(episode.action_rad, np.stack([t / 2, t], 1))
    assert (episode.rate_hz, episode.robot, episode.action_vel_rad_s) == (100.0, "toy", None)
    assert episode.effort_nm is None
    (fine,) = build(tmp_path, ramp(1000), rate_hz=160.0)
    np.testing.assert_allclose(fine.qpos_rad[:, 0], fine.t_s, atol=1e-12)
    np.testing.assert_allclose(fine.action_rad[:, 1], np.floor(fine.t_s * 100 + 1e-9) / 100)


def test_the_grid_starts_at_the_first_state_with_a_command_in_force(tmp_path: Path) -> None:
    items = [i for i in ramp(1200) if i[0] != "/joint_command" or i[2] >= T0 + 303 * MS]
    (episode,) = build(tmp_path, items)
    assert episode.t_s[0] == pytest.approx(0.31)
    assert episode.source["start_stamp_ns"] == str(T0 + 310 * MS)


def test_a_gap_in_the_states_splits_and_each_part_has_its_own_grid(tmp_path: Path) -> None:
    items = ramp(800) + ramp(1800, start_ms=1003)
    first, second = build(tmp_path, items)
    assert (first.t_s[0], first.t_s[-1]) == (0.0, 0.8)
    assert second.t_s[0] == pytest.approx(1.003)
    np.testing.assert_allclose(second.qpos_rad[:, 0], second.t_s, atol=1e-9)
    assert len(build(tmp_path, items, min_length_s=0.79)) == 2
    assert len(build(tmp_path, items, min_length_s=0.8)) == 1
    assert len(build(tmp_path, items, max_gap_s=0.3)) == 1


def test_a_clock_reset_splits_and_commands_in_flight_stay_on_their_side(tmp_path: Path) -> None:
    late = command(T0 + 1000 * MS, [9.0, 9.0])  # of the first run, recorded in the second
    second_run = ramp(900)
    items = ramp(1000) + second_run[:1] + [late] + second_run[1:]
    first, second = build(tmp_path, items)
    assert (len(first), len(second)) == (101, 91)
    assert first.action_rad.max() == 9.0  # in force at its last sample
    assert second.action_rad.max() < 2.0


def test_markers_number_the_episodes_and_forget_earlier_commands(tmp_path: Path) -> None:
    items = [marker(T0 + 600 * MS, "4 reach the cup"), *ramp(2000)]
    items.append(marker(T0 + 1300 * MS, "-1"))  # paused, and recorded late
    late_commands = [
        i for i in items if i[0] != "/joint_command" or not 600 * MS <= i[2] - T0 < 650 * MS
    ]
    (episode,) = build(tmp_path, late_commands)
    assert (episode.task, episode.source["marker"]) == ("reach the cup", "4")
    assert episode.t_s[0] == pytest.approx(0.65)
    assert 1.28 < episode.t_s[-1] < 1.3
    with pytest.raises(InputError, match="INDEX TASK"):
        build(tmp_path, [marker(T0, "first"), *ramp(1000)])


def test_markers_of_runs_after_a_clock_reset_belong_to_those_runs(tmp_path: Path) -> None:
    items = [marker(T0, "0 one"), *ramp(800), marker(T0, "1 two"), *ramp(700)]
    episodes = build(tmp_path, items)
    assert [(e.task, len(e)) for e in episodes] == [("one", 81), ("two", 71)]


def test_a_damping_command_ends_the_episode(tmp_path: Path) -> None:
    items = ramp(2000)
    items = [i for i in items if not (i[0] == "/joint_command" and 800 <= (i[2] - T0) / MS < 1200)]
    items.append(command(T0 + 800 * MS, [], velocity=[0.0, 0.0]))
    first, second = build(tmp_path, items)
    assert first.t_s[-1] == pytest.approx(0.79)
    assert second.t_s[0] == pytest.approx(1.2)


def test_commanded_velocities_and_efforts_are_kept(tmp_path: Path) -> None:
    items = [
        item
        for ms in range(0, 1001, 5)
        for item in (
            state(T0 + ms * MS, [0.0, 1.0], tau=[3.0, 4.0]),
            command(T0 + ms * MS, [0.0, 0.0], velocity=[1.0, 2.0]),
        )
    ]
    (episode,) = build(tmp_path, items)
    assert episode.action_vel_rad_s is not None
    assert episode.effort_nm is not None
    np.testing.assert_array_equal(episode.action_vel_rad_s[0], [2.0, 1.0])
    np.testing.assert_array_equal(episode.effort_nm[5], [3.0, 4.0])


def test_a_walker_gets_its_base_in_the_right_frames(tmp_path: Path) -> None:
    items = ramp(1000) + [odom(T0 + ms * MS, np.pi / 2) for ms in range(100, 901, 5)]
    (episode,) = build(tmp_path, items, WALKER)
    assert (episode.t_s[0], episode.t_s[-1]) == pytest.approx((0.1, 0.9))
    assert episode.base_lin_vel_m_s is not None
    assert episode.base_ang_vel_rad_s is not None
    np.testing.assert_allclose(episode.base_lin_vel_m_s[3], [0.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_array_equal(episode.base_ang_vel_rad_s[3], [0.0, 0.0, 0.5])
    with pytest.raises(InputError, match="/odom"):
        build(tmp_path, ramp(1000), WALKER)
    with pytest.raises(InputError, match="finite"):
        build(tmp_path, [*items, odom(T0 + 905 * MS, 0.0, np.nan)], WALKER)


def test_repeated_stamps_and_extra_joints_do_no_harm(tmp_path: Path) -> None:
    doubled = [i for item in ramp(1000) for i in (item, item)]
    fingers = [state(T0 + ms * MS, [0.1], names=("finger",)) for ms in range(0, 1000, 7)]
    (plain,), (odd,) = build(tmp_path, ramp(1000)), build(tmp_path, doubled + fingers)
    np.testing.assert_array_equal(plain.qpos_rad, odd.qpos_rad)
    np.testing.assert_array_equal(plain.action_rad, odd.action_rad)


def test_sqlite_gives_the_same_episode(tmp_path: Path) -> None:
    (ours,) = build(tmp_path, ramp(1000))
    with Writer(tmp_path / "db", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections: dict[str, Any] = {}
        for i, (topic, msgtype, _, cdr) in enumerate(ramp(1000)):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            writer.write(connections[topic], i, cdr)
    (theirs,) = build_episodes(tmp_path / "db", TOY)
    np.testing.assert_array_equal(ours.qpos_rad, theirs.qpos_rad)
    np.testing.assert_array_equal(ours.action_rad, theirs.action_rad)


def only(topic: str) -> list[Item]:
    return [item for item in ramp(1000) if item[0] == topic]


def states_as(change: Callable[[int], Item]) -> list[Item]:
    return [*(change(ms) for ms in range(0, 1001, 5)), *only("/joint_command")]


BAD: dict[str, tuple[list[Item], str]] = {
    "no states": (only("/joint_command"), r"/joint_states, but .*: /joint_command \(traj"),
    "no commands": (only("/joint_states"), "/joint_command or /joint_commands"),
    "wrong type": (
        [marker(T0, "x")] + [("/joint_states", *item[1:]) for item in only("/joint_command")] * 2,
        "expected messages on|expected sensor_msgs",
    ),
    "other joints": (
        states_as(lambda ms: state(T0 + ms * MS, [0.0, 0.0], names=("fr3_1", "fr3_2"))),
        r"expected joints \['a', 'b'\], got \['fr3_1', 'fr3_2'\]",
    ),
    "one joint missing": (
        states_as(lambda ms: state(T0 + ms * MS, [0.0, 0.0], names=("a", "c"))),
        r"expected joints \['b'\]",
    ),
    "a joint twice": (
        states_as(lambda ms: state(T0 + ms * MS, [0.0] * 3, names=("a", "b", "a"))),
        "twice",
    ),
    "NaN state": (
        states_as(lambda ms: state(T0 + ms * MS, [0.0, np.nan if ms == 300 else 0.0])),
        "position nan of joint b in message 60",
    ),
    "infinite command": ([*ramp(1000), command(T0, [np.inf, 0.0])], "position inf of joint b"),
    "degrees": (
        states_as(lambda ms: state(T0 + ms * MS, [90.0, -45.0 + ms / 100])),
        "look like degrees",
    ),
    "another zero": (
        states_as(lambda ms: state(T0 + ms * MS, [3.5, 0.0])),
        "outside .*another robot",
    ),
    "no velocities": (states_as(lambda ms: state(T0 + ms * MS, [0.0, 0.0], qd=())), "velocity"),
    "zero stamps": ([state(0, [0.0, 0.0]), *only("/joint_command")], "all are zero"),
    "stamps stand still": ([state(T0, [0.0, 0.0])] * 9 + only("/joint_command"), "advance"),
    "slow": (ramp(3000, step_ms=50), "at least 100 Hz, .* 20.0 Hz"),
    "too short": (ramp(400), "at least 0.5 s .* 0.400 s"),
    "chunks": ([*only("/joint_states"), command(T0, [0, 0], [0, 0])], "chunk of 2"),
    "only damping": ([*only("/joint_states"), command(T0, [])], "commanded positions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bags_get_one_sentence(tmp_path: Path, name: str) -> None:
    items, match = BAD[name]
    with pytest.raises(InputError, match=match) as raised:
        build(tmp_path, items)
    assert "\n" not in str(raised.value)


def test_provenance_must_agree(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recorded with g1"):
        build(tmp_path, ramp(1000), provenance={"robot": "g1"})
    with pytest.raises(InputError, match="fingerprint"):
        build(tmp_path, ramp(1000), provenance={"robot_fingerprint": "0"})
    with pytest.raises(InputError, match="declared 100 Hz"):
        build(tmp_path, ramp(1000), provenance={"state_rate_hz": "100"})
    (episode,) = build(tmp_path, ramp(1000), provenance={"state_rate_hz": "199", "seed": "5"})
    assert episode.source["bag.seed"] == "5"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(tmp_path: Path, rate: float) -> None:
    with pytest.raises(InputError, match="above 0 Hz"):
        build(tmp_path, ramp(1000), rate_hz=rate)


def walker_episodes(tmp_path: Path) -> list[Episode]:
    items = [marker(T0, "0 walk"), marker(T0 + 700 * MS, "1 stop")]
    items += ramp(1500) + [odom(T0 + ms * MS, ms / 500) for ms in range(0, 1501, 5)]
    return build(tmp_path, items, WALKER)


def test_store_round_trip_is_bit_exact(tmp_path: Path) -> None:
    episodes = walker_episodes(tmp_path)
    save_episodes(episodes, tmp_path / "out", robot=WALKER)
    loaded = load_episodes(tmp_path / "out", WALKER)
    assert len(loaded) == len(episodes) == 2
    for ours, theirs in zip(episodes, loaded, strict=True):
        for field in dataclasses.fields(Episode):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            if isinstance(a, np.ndarray):
                assert np.array_equal(a, b), field.name
            else:
                assert a == b, field.name
    assert not list(tmp_path.glob(".out*"))


def test_the_layout_is_lerobot_v3(tmp_path: Path) -> None:
    save_episodes(walker_episodes(tmp_path), tmp_path / "out", robot=WALKER)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 100, 2)
    assert set(info["features"]) == set(table.column_names)
    assert info["features"]["observation.state"]["names"] == ["qpos/a", "qpos/b"]
    assert info["total_frames"] == table.num_rows
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    column = np.array(table["action"].to_pylist())
    np.testing.assert_allclose(stats["action"]["mean"], column.mean(axis=0))
    assert table["frame_index"].to_pylist()[-1] + 1 == sum(
        e == 1 for e in table["episode_index"].to_pylist()
    )
    tasks = pq.read_table(tmp_path / "out/meta/tasks.parquet").to_pylist()
    assert tasks == [{"task_index": 0, "task": "walk"}, {"task_index": 1, "task": "stop"}]


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path) -> None:
    episodes = build(tmp_path, ramp(1000))
    out = tmp_path / "out"
    save_episodes(episodes, out, robot=TOY)
    with pytest.raises(InputError, match="--overwrite"):
        save_episodes(episodes, out, robot=TOY)
    save_episodes(episodes * 2, out, robot=TOY, overwrite=True)
    assert len(load_episodes(out, TOY)) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="something else"):
        save_episodes(episodes, tmp_path / "mine", robot=TOY, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_episodes_of_one_dataset_must_belong_together(tmp_path: Path) -> None:
    (episode,) = build(tmp_path, ramp(1000))
    for other in (
        dataclasses.replace(episode, rate_hz=50.0),
        dataclasses.replace(episode, effort_nm=episode.qpos_rad),
        dataclasses.replace(episode, robot="g1"),
    ):
        with pytest.raises(InputError, match="expected one"):
            save_episodes([episode, other], tmp_path / "out", robot=TOY)
    with pytest.raises(InputError, match="at least one episode"):
        save_episodes([], tmp_path / "out")
    with pytest.raises(InputError, match="fingerprint"):
        save_episodes([episode], tmp_path / "out", robot=get_robot("panda"))
    assert not (tmp_path / "out").exists()


def test_load_refuses_changed_and_foreign_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_episodes(build(tmp_path, ramp(1000)), out, robot=TOY)
    with pytest.raises(InputError, match="expected robot panda"):
        load_episodes(out, get_robot("panda"))
    with pytest.raises(InputError, match="robot out of"):
        load_episodes(out)
    with pytest.raises(InputError, match="episodes build"):
        load_episodes(tmp_path)
    data = out / "data/chunk-000/file-000.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="SHA-256"):
        load_episodes(out, TOY)
    data.write_bytes(whole)
    manifest = out / "meta/realign.json"
    good = json.loads(manifest.read_text())
    for change in (
        {"format": 2},
        {"features": {}},
        {"features": {**good["features"], "observation.state": "__class__"}},
        {"sha256": {}},
        {"sha256": 3},
    ):
        manifest.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match="manifest of format 1"):
            load_episodes(out, TOY)
    manifest.write_text("[]")
    with pytest.raises(InputError, match="manifest"):
        load_episodes(out, TOY)


def test_values_that_are_not_finite_are_refused_on_save(tmp_path: Path) -> None:
    (episode,) = build(tmp_path, ramp(1000))
    action = episode.action_rad.copy()
    action[3, 1] = np.nan
    out = tmp_path / "out"
    with pytest.raises(InputError, match="finite"):
        save_episodes([dataclasses.replace(episode, action_rad=action)], out, robot=TOY)
    assert not out.exists()


def test_the_real_panda_log(shared_data: Path, tmp_path: Path) -> None:
    panda = get_robot("panda")
    episodes = build_episodes(shared_data / "panda_real" / "exciting_0_14s", panda)
    (episode,) = episodes
    assert len(episode) == 1400
    assert estimate_latency_s(episodes) == pytest.approx(0.020, abs=0.002)
    save_episodes(episodes, tmp_path / "out")
    (loaded,) = load_episodes(tmp_path / "out")
    assert np.array_equal(loaded.qpos_rad, episode.qpos_rad)


def test_the_command_line(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = shared_data / "panda_real" / "exciting_0_14s"
    out, summary = tmp_path / "out", tmp_path / "s.json"
    episodes_build([bag, bag], "panda", out, json=summary)
    printed = capsys.readouterr()
    assert "2 episodes, 2800 frames" in printed.out
    assert "latency 20.4 ms" in printed.out
    assert printed.err == ""
    assert json.loads(summary.read_text())["episodes"] == 2
    with pytest.raises(InputError, match="exists"):
        episodes_build([bag], "panda", out)
    with pytest.raises(InputError, match="exists"):
        episodes_build([bag], "panda", tmp_path / "other", json=summary)
    with pytest.raises(InputError, match="robot out of"):
        episodes_build([bag], "r2d2", tmp_path / "new")
