"""Small parts of the runtime: ticker, percentiles, messages by name."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import messages as wire
from policies.errors import InputError
from policies.interface import reorder_index
from policies.robots import PANDA
from policies.runtime.latency import Percentiles
from policies.runtime.ticker import Ticker

MS = 1_000_000


@given(rate=st.sampled_from([50, 100, 200, 500, 1000]), count=st.integers(50, 300))
def test_ticker_asks_at_its_own_rate_whatever_the_data_rate(rate, count):
    ticker = Ticker(50.0)
    stamps = [round(k * 1e9 / rate) for k in range(count)]
    due = [s for s in stamps if ticker.due(s)]
    assert due[0] == 0
    assert set(np.diff(due)) == {20 * MS}


def test_ticker_skips_what_was_missed_and_keeps_its_grid():
    ticker = Ticker(50.0)
    assert [s for s in (0, 20, 70, 75, 80, 100) if ticker.due(s * MS)] == [0, 20, 70, 80, 100]


def test_ticker_starts_over_when_the_clock_jumps_back():
    ticker = Ticker(50.0)
    assert ticker.due(1000 * MS)
    assert ticker.due(5 * MS)
    assert not ticker.due(10 * MS)
    assert ticker.due(25 * MS)


def test_ticker_answers_a_repeated_stamp_once():
    ticker = Ticker(50.0)
    assert ticker.due(5)
    assert not ticker.due(5)


def test_percentiles_of_the_newest_samples():
    ring = Percentiles(100)
    assert ring.summary() == {"p50": None, "p95": None, "p99": None}
    for value in range(1000):
        ring.add(value)
    assert ring.summary()["p50"] == pytest.approx(949.5)


def test_reorder_is_by_name():
    assert reorder_index(["b", "x", "a"], ["a", "b"], "test").tolist() == [2, 0]


@pytest.mark.parametrize(
    ("have", "what"), [(["a", "a", "b"], "twice"), (["a"], "missing")], ids=["twice", "missing"]
)
def test_bad_names_are_one_sentence(have, what):
    with pytest.raises(InputError, match=what) as error:
        reorder_index(have, ["a", "b"], "joint_states")
    assert "\n" not in str(error.value)


def stamp():
    return SimpleNamespace(sec=0, nanosec=0)


def point():
    return SimpleNamespace(positions=[], velocities=[], time_from_start=stamp())


def trajectory():
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp()), joint_names=[], points=[])


def test_chunk_survives_the_wire_in_any_joint_order():
    rng = np.random.default_rng(0)
    order = rng.permutation(PANDA.n)
    rows = rng.normal(size=(5, PANDA.n))
    names = [PANDA.joint_names[i] for i in order]
    msg = wire.fill_trajectory(
        trajectory(),
        point,
        stamp_ns=1_234_567_890,
        names=names,
        dt_s=0.02,
        positions_rad=rows[:, order],
    )
    chunk = wire.trajectory_to_chunk(msg, wire.NameMap(PANDA.joint_names, "chunk"))
    assert np.array_equal(chunk.positions_rad, rows)
    assert chunk.stamp_ns == 1_234_567_890
    assert chunk.dt_s == pytest.approx(0.02)


def break_(msg, how):
    if how == "no points":
        msg.points = []
    elif how == "short point":
        msg.points[1].positions = msg.points[1].positions[:-1]
    elif how == "uneven":
        msg.points[2].time_from_start.nanosec += 5
    else:
        msg.points[0].time_from_start.sec = 1


@pytest.mark.parametrize("how", ["no points", "short point", "uneven", "late start"])
def test_malformed_chunk_is_refused(how):
    msg = wire.fill_trajectory(
        trajectory(),
        point,
        stamp_ns=0,
        names=PANDA.joint_names,
        dt_s=0.02,
        positions_rad=np.zeros((4, PANDA.n)),
    )
    break_(msg, how)
    with pytest.raises(InputError):
        wire.trajectory_to_chunk(msg, wire.NameMap(PANDA.joint_names, "chunk"))


def test_joint_state_without_velocities_is_refused():
    msg = SimpleNamespace(name=list(PANDA.joint_names), position=[0.0] * 7, velocity=[], effort=[])
    with pytest.raises(InputError, match="velocities"):
        wire.joint_state_to_numpy(msg, wire.NameMap(PANDA.joint_names, "joint_states"))


def test_quaternions_are_wxyz_inside_and_xyzw_on_the_wire():
    q = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0)
    wire.set_quat(q, np.array([0.1, 0.2, 0.3, 0.4]))
    assert (q.w, q.x, q.y, q.z) == (0.1, 0.2, 0.3, 0.4)
    assert wire.quat_wxyz(q).tolist() == [0.1, 0.2, 0.3, 0.4]
