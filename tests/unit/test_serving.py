"""Policies behind a websocket: the wire, the server, the client, and peers that lie."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

import policies
from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import load_policy, save_checkpoint
from policies.diffusion.checkpoint import load_chunk_model
from policies.diffusion.interface import CameraSpec, ChunkSpec, Prefix, Window, blank_window
from policies.errors import InputError
from policies.interface import Observation
from policies.processors import TermConfig
from policies.robots import G1, PANDA
from policies.runtime.engine import make_engine
from policies.runtime.failure import Failure, PolicyFailureError
from policies.runtime.planning import EngineConfig
from policies.serving.client import Dialect, RemoteConfig, RemoteModel, open_session
from policies.serving.descriptor import write_descriptor
from policies.serving.protocol import (
    Served,
    dump_question,
    dump_served,
    parse_question,
    parse_served,
)
from policies.serving.server import PolicyServer, ServeConfig, read_token
from policies.serving.wire import MAX_ITEMS, pack, unpack
from sim2real import cli
from sim2real.serve_cli import local_policy

CHECKPOINT = Path(policies.__file__).parent / "checkpoints" / "panda_reach"
TOKEN = "0123456789abcdef"

# ---- wire --------------------------------------------------------------------------------------

arrays = st.builds(
    lambda dtype, shape: (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(dtype),
    st.sampled_from(["<f4", "<f8", ">f8", "<i8", "|u1", "|b1", "<u2"]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(message=st.dictionaries(st.text(max_size=8), plain | arrays, max_size=6))
def test_what_is_packed_comes_back(message):
    found = unpack(pack(message))
    assert set(found) == set(message)
    for key, value in message.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            assert_array_equal(found[key], value)
        else:
            assert repr(found[key]) == repr(value)


@settings(max_examples=500)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_message_or_one_sentence(data):
    message, words = judged(data)
    assert isinstance(message, dict) or words
    assert "\n" not in words


def judged(data):
    """The message in the bytes, and what is said against them."""
    try:
        return unpack(data), ""
    except InputError as error:
        return None, str(error)


def test_message_cut_anywhere_or_altered_anywhere_is_never_a_traceback():
    whole = pack(
        {"state": np.arange(6.0).reshape(2, 3), "id": 7, "name": "arm", "deep": [{"a": 1}]}
    )
    for end in range(len(whole)):
        with pytest.raises(InputError):
            unpack(whole[:end])
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(whole)
            broken[place] ^= flip
            assert "\n" not in judged(bytes(broken))[1]


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of four milliards
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\x00\x10\x00\x00" + b"\x90" * 2**20,  # a million lists in one megabyte
        b"\x91" * 100_000,
        b"\x81\xa1a" * 5000 + b"\xc0",
    ],
)
def test_bomb_is_refused_before_anything_is_built(bomb, monkeypatch):
    monkeypatch.setattr(msgpack, "unpackb", lambda *a, **k: pytest.fail("was built"))
    with pytest.raises(InputError, match=r"items|bytes|cut short"):
        unpack(bomb)


def test_many_small_items_are_counted():
    assert len(unpack(pack({"list": [0] * (MAX_ITEMS - 3)}))["list"]) == MAX_ITEMS - 3
    with pytest.raises(InputError, match="items"):
        unpack(pack({"list": [0] * MAX_ITEMS}))


@pytest.mark.parametrize(
    "array",
    [
        {b"__ndarray__": True, b"data": b"cos\nsystem\n", b"dtype": "|O", b"shape": (1,)},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": (2**40, 2**40)},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": (-1,)},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": (True,)},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": 1},
        {b"__ndarray__": True, b"data": b"\0" * 7, b"dtype": "<f8", b"shape": (1,)},
        {b"__ndarray__": True, b"data": "text", b"dtype": "<f8", b"shape": (1,)},
        {b"__ndarray__": True, b"data": b"", b"dtype": "<f8", b"shape": [0] * 9},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "i4,i4", b"shape": (1,)},
        {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": ["<f8"], b"shape": (1,)},
        {b"__npgeneric__": True, b"data": b"x", b"dtype": "<f8"},
        msgpack.ExtType(5, b"x"),
        msgpack.Timestamp(0),
    ],
)
def test_array_that_is_none_is_refused(array):
    with pytest.raises(InputError, match=r"^message: "):
        unpack(msgpack.packb({"state": array}))


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), np.array([1j]), object(), 2**70, {1, 2}]
)
def test_what_is_not_numbers_is_not_packed(value):
    with pytest.raises(InputError, match="arrays of numbers"):
        pack({"state": value})


def test_arrays_are_written_as_openpi_writes_them():
    """Facts of openpi_client 0.1.2: keys are bytes, dtype is NumPy's string, shape a list."""
    data = pack({"x": np.array([[1.0, 2.0]], dtype=np.float32)})
    raw = msgpack.unpackb(data)["x"]
    assert raw == {
        b"__ndarray__": True,
        b"data": np.array([1.0, 2.0], dtype=np.float32).tobytes(),
        b"dtype": "<f4",
        b"shape": [1, 2],
    }
    assert unpack(pack({"x": np.float32(0.5)})) == {"x": 0.5}


def test_longer_than_allowed_is_refused():
    with pytest.raises(InputError, match="at most 100 bytes"):
        unpack(pack({"x": np.zeros(100)}), max_bytes=100)


# ---- server ------------------------------------------------------------------------------------


def served_model(name="panda_reach"):
    policy = load_policy(CHECKPOINT, PANDA)
    return policy.model, Served(
        spec=policy.model.spec, robot=policy.model.robot, sha256=policy.spec.sha256
    )


@pytest.fixture(scope="module")
def server(running):
    with running(*served_model()) as running_server:
        yield running_server


def url(server):
    return f"ws://127.0.0.1:{server.port}"


@contextmanager
def client_of(server, **headers):
    with connect(url(server), compression=None, additional_headers=headers or None) as connection:
        yield connection


@contextmanager
def greeted(server):
    """A client that has been let in, once the one before has left."""
    for _ in range(500):
        with client_of(server) as connection:
            try:
                connection.first = connection.recv(timeout=60.0)
            except ConnectionClosed:
                time.sleep(0.02)
                continue
            yield connection
            return


def remote(server, **config):
    _, served = served_model()
    return RemoteModel(served, RemoteConfig(url=url(server), **{"connect_s": 60.0, **config}))


def window(seed=0):
    state = np.zeros((1, 1, 31))
    state[0, 0, :7] = PANDA.default_rad
    state[0, 0, 28:] = 0.3 + 0.01 * seed
    return Window(state=state)


def test_remote_model_gives_the_answers_of_the_local_one(server):
    local, _ = served_model()
    model = remote(server)
    prefix = Prefix(actions=np.full((1, 7, 7), 0.1), weights=np.linspace(1.0, 0.0, 7))
    try:
        for seed in (0, 5):
            local.reset(seed)
            model.reset(seed)
            for k in range(3):
                wanted = local.sample(window(k), executed=4, prefix=prefix if k else None)
                found = model.sample(window(k), executed=4, prefix=prefix if k else None)
                assert_array_equal(found, wanted)
        assert model.network_calls == 3
    finally:
        model.close()


def test_peer_of_openpi_is_answered(server):
    """A client of the public protocol knows nothing of ids, resets and executed steps."""
    with greeted(server) as connection:
        metadata = msgpack.unpackb(connection.first)
        assert metadata["spec"]["name"] == "panda_reach"
        assert metadata["action_units"] == ["rad/s"] * 7
        state = np.zeros(31, dtype=np.float32)
        array = {
            b"__ndarray__": True,
            b"data": state.tobytes(),
            b"dtype": state.dtype.str,
            b"shape": state.shape,
        }
        connection.send(msgpack.packb({"state": array}))
        answer = msgpack.unpackb(connection.recv(timeout=60.0))
    assert set(answer) == {"actions", "server_timing"}
    assert answer["actions"][b"shape"] == [7, 7]
    assert answer["server_timing"]["infer_ms"] > 0.0


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (b"\xff\xfe", "message: expected"),
        ("text", "expected a binary message"),
        ({}, "expected an array in 'state'"),
        ({"state": np.zeros(3)}, "shape (1, 31), got (3,)"),
        ({"state": np.full(31, np.nan)}, "finite numbers in 'state'"),
        ({"state": np.zeros(31), "images": {"wrist": np.zeros((2, 2, 3))}}, "cameras [], got"),
        ({"state": np.zeros(31), "instruction": "go"}, "got ['instruction']"),
        ({"state": np.zeros(31), "prompt": 3}, "'prompt'"),
        ({"state": np.zeros(31), "prompt": "go " * 1000}, "'prompt'"),
        ({"state": np.zeros(31), "executed": -1}, "'executed'"),
        ({"state": np.zeros(31), "executed": True}, "'executed'"),
        ({"state": np.zeros(31), "request_id": "a"}, "'request_id'"),
        ({"reset": -1}, "seed"),
        ({"reset": "now"}, "seed"),
        ({"state": np.zeros(31), "prefix": {"actions": np.zeros((7, 7))}}, "'prefix'"),
        (
            {
                "state": np.zeros(31),
                "prefix": {"actions": np.zeros((7, 7)), "weights": np.ones(7) * 2},
            },
            "within [0, 1]",
        ),
    ],
)
def test_bad_question_is_answered_with_one_sentence(server, question, words):
    with greeted(server) as connection:
        connection.send(pack(question) if isinstance(question, dict) else question)
        answer = connection.recv(timeout=60.0)
        assert isinstance(answer, str)
        assert words in answer
        assert "\n" not in answer
        connection.send(pack({"state": np.zeros(31), "request_id": 3}))
        assert unpack(connection.recv(timeout=60.0))["request_id"] == 3, "and goes on"


def test_question_that_is_too_large_ends_the_connection(server):
    with greeted(server) as connection:
        connection.send(pack({"state": np.zeros(100_000)}))
        with pytest.raises(ConnectionClosed, match="too big"):
            connection.recv(timeout=60.0)
    open_session(RemoteConfig(url=url(server), connect_s=30.0)).close()


def test_error_of_the_model_stays_in_the_servers_log(running, caplog):
    model, served = served_model()
    sample = model.sample
    with running(model, served) as server, client_of(server) as connection:
        connection.recv(timeout=60.0)
        model.sample = lambda *a, **k: 1 / 0
        connection.send(pack({"state": np.zeros(31)}))
        answer = connection.recv(timeout=60.0)
        assert answer == "the model failed with ZeroDivisionError; see the server's log"
        model.sample = sample
        connection.send(pack({"state": np.zeros(31)}))
        assert isinstance(connection.recv(timeout=60.0), bytes)
    assert "division by zero" in caplog.text


def test_second_client_is_sent_away(server):
    with greeted(server):
        with client_of(server) as second, pytest.raises(ConnectionClosed, match="another client"):
            second.recv(timeout=60.0)
        with pytest.raises(PolicyFailureError, match="another client"):
            open_session(RemoteConfig(url=url(server), connect_s=2.0))
    open_session(RemoteConfig(url=url(server), connect_s=30.0)).close()


@pytest.mark.parametrize("given", [None, "Api-Key wrong", TOKEN, f"Api-Key {TOKEN}x"])
def test_client_without_the_token_is_refused(running, given):
    with running(*served_model(), token=TOKEN) as server:
        headers = {"Authorization": given} if given else {}
        with pytest.raises(InvalidStatus) as refused, client_of(server, **headers):
            pass
        assert refused.value.response.status_code == 401
        with client_of(server, Authorization=f"Api-Key {TOKEN}") as connection:
            connection.recv(timeout=60.0)


def test_client_with_the_wrong_token_does_not_try_again(running):
    with running(*served_model(), token=TOKEN) as server:
        with pytest.raises(PolicyFailureError, match="401") as refused:
            remote(server, token="f" * 16, connect_s=60.0).reset(0)
        assert refused.value.kind is Failure.SERVER_REFUSED
        model = remote(server, token=TOKEN)
        model.reset(0)
        model.close()


def test_page_in_a_browser_is_refused(server):
    with (
        pytest.raises(InvalidStatus) as refused,
        client_of(server, Origin="http://example.org"),
    ):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.3", "robot.local", ""])
def test_address_that_others_reach_needs_a_token(host):
    with pytest.raises(InputError, match="token"):
        ServeConfig(host=host)
    assert ServeConfig(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_loopback_needs_no_token(host):
    assert ServeConfig(host=host).token is None


@pytest.mark.parametrize("content", ["short", "with spaces in its middle", "ümlaut" * 10, ""])
def test_weak_token_is_refused(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="token"):
        read_token(tmp_path / "token")
    with pytest.raises(InputError, match="token"):
        read_token(tmp_path / "nothing")


def test_port_in_use_is_named(server):
    with pytest.raises(InputError, match="choose another port"):
        PolicyServer(*served_model(), ServeConfig(port=server.port))


# ---- client ------------------------------------------------------------------------------------


def greeting():
    return pack(dump_served(served_model()[1]))


@contextmanager
def listening(handle):
    server = serve(handle, "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.port = server.socket.getsockname()[1]
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10.0)


@contextmanager
def scripted(answers, first=None):
    """A server that says what it is told: bytes, text, None for silence, or an action."""

    def handle(connection):
        connection.send(greeting() if first is None else first)
        for data in connection:
            question = unpack(data)
            if "reset" in question:
                connection.send(pack(question))
                continue
            answer = answers(question)
            if callable(answer):
                answer(connection)
            elif answer is not None:
                connection.send(pack(answer) if isinstance(answer, dict) else answer)

    with listening(handle) as server:
        yield server


def good(question):
    return {"actions": np.zeros((7, 7)), "request_id": question["request_id"]}


LIES = {
    "no actions": (lambda q: {"request_id": q["request_id"]}, Failure.BAD_ANSWER),
    "shape": (lambda q: good(q) | {"actions": np.zeros((7, 6))}, Failure.BAD_ANSWER),
    "too few": (lambda q: good(q) | {"actions": np.zeros((6, 7))}, Failure.BAD_ANSWER),
    "nan": (lambda q: good(q) | {"actions": np.full((7, 7), np.nan)}, Failure.BAD_ANSWER),
    "list": (lambda q: good(q) | {"actions": [[0.0] * 7] * 7}, Failure.BAD_ANSWER),
    "id": (lambda q: good(q) | {"request_id": q["request_id"] + 1}, Failure.BAD_ANSWER),
    "no id": (lambda q: {"actions": np.zeros((7, 7))}, Failure.BAD_ANSWER),
    "garbage": (lambda q: b"\xc1\xff\x00", Failure.BAD_ANSWER),
    "pickle": (lambda q: b"\x80\x04\x95cposix\nsystem\n.", Failure.BAD_ANSWER),
    "oversized": (lambda q: b"\x00" * (2 << 20), Failure.BAD_ANSWER),
    "text": (lambda q: "Traceback\n  line 1\n  line 2", Failure.SERVER_REFUSED),
    "silence": (lambda q: None, Failure.SERVER_SLOW),
    "gone": (lambda q: lambda connection: connection.close(), Failure.SERVER_LOST),
    "cut": (lambda q: lambda connection: connection.socket.close(), Failure.SERVER_LOST),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_dead_or_slow_server_is_a_failure_with_a_name(lie):
    answer, kind = LIES[lie]
    with scripted(answer) as server:
        model = remote(server, reply_s=1.0 if lie == "silence" else 60.0)
        model.reset(0)
        with pytest.raises(PolicyFailureError) as failed:
            model.sample(window())
        assert failed.value.kind is kind, str(failed.value)
        assert "\n" not in str(failed.value)
        with pytest.raises(PolicyFailureError, match="not connected") as again:
            model.sample(window())
        assert again.value.kind is Failure.SERVER_LOST


def test_late_answer_does_not_answer_the_next_question():
    asked, given_up, answered = [], threading.Event(), threading.Event()

    def late_once(question):
        asked.append(question["request_id"])
        if len(asked) > 1:
            return good(question)

        def answer(connection):
            given_up.wait(60.0)
            with suppress(ConnectionClosed):
                connection.send(pack(good(question) | {"actions": np.ones((7, 7))}))
            answered.set()

        return answer

    with scripted(late_once) as server:
        model = remote(server, reply_s=1.0)
        model.reset(0)
        with pytest.raises(PolicyFailureError, match=r"within 1 s"):
            model.sample(window())
        given_up.set()
        assert answered.wait(60.0)
        model.reset(0)  # another connection
        assert_array_equal(model.sample(window()), np.zeros((1, 7, 7)))
        assert len(set(asked)) == 2
        model.close()


def test_failed_server_silences_the_engine_until_it_is_activated_again():
    lying = [True]
    with scripted(lambda q: b"\xc1" if lying[0] and q["executed"] else good(q)) as server:
        _, served = served_model()
        folder_policy = load_policy(CHECKPOINT, PANDA)
        folder_policy.model = RemoteModel(served, RemoteConfig(url=url(server)))
        engine = make_engine(folder_policy, EngineConfig(lockstep=True))
        engine.reset(0)

        def tick(step):
            return engine.tick(
                Observation(
                    stamp_ns=step * 20_000_000,
                    qpos_rad=PANDA.default_rad,
                    qvel_rad_s=np.zeros(7),
                    goal=np.array([0.4, 0.0, 0.4]),
                )
            )

        chunks = [tick(step) for step in range(10)]
        assert [chunk is not None for chunk in chunks] == [True] * 4 + [False] * 6
        assert engine.failure.kind is Failure.BAD_ANSWER
        lying[0] = False
        assert tick(10) is None
        engine.reset(0)
        assert tick(11) is not None
        engine.close()


def test_connecting_is_tried_again_until_the_server_is_there(running):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, served = served_model()
    model = RemoteModel(served, RemoteConfig(url=f"ws://127.0.0.1:{port}", connect_s=30.0))
    started = threading.Event()
    opened = []

    def start_late():
        started.wait(0.5)
        opened.append(running(*served_model(), port=port))
        opened[0].__enter__()

    starter = threading.Thread(target=start_late)
    starter.start()
    model.reset(0)
    model.close()
    starter.join()
    opened[0].__exit__(None, None, None)


def test_server_that_is_not_there_is_named():
    _, served = served_model()
    model = RemoteModel(served, RemoteConfig(url="ws://127.0.0.1:9", connect_s=0.3))
    with pytest.raises(PolicyFailureError, match=r"127\.0\.0\.1:9") as failed:
        model.reset(0)
    assert failed.value.kind is Failure.SERVER_LOST
    with pytest.raises(InputError, match="ws://HOST:PORT"):
        open_session(RemoteConfig(url="http://127.0.0.1"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": 2}, "protocol 1, got 2"),
        ({"protocol": None}, "tells"),
        ({"action_units": ["deg/s"] * 7}, "'rad/s', got 'deg/s'"),
        ({"state_units": ["rad"]}, "31 entries"),
        ({"camera_colours": ["bgr"]}, "rgb"),
        ({"sha256": "0" * 64}, "another sha256"),
        ({"robot": None}, "another robot"),
        ({"spec": 3}, "expected an object"),
        ({"instructed": "yes"}, "true or false"),
    ],
)
def test_server_that_tells_something_else_is_refused_before_anything_moves(change, words):
    told = dump_served(served_model()[1]) | change
    with scripted(good, first=pack(told)) as server:
        model = remote(server)
        with pytest.raises(InputError, match=words.replace("(", r"\(")):
            model.reset(0)
        with pytest.raises(PolicyFailureError, match="not connected"):
            model.sample(window())


def test_what_is_told_of_a_policy_comes_back():
    spec = ChunkSpec(
        name="arm",
        state_names=("qpos/panda_joint1", "goal/x"),
        action_names=("position/panda_joint1",),
        cameras=(CameraSpec(name="wrist", height=16, width=24),),
        observation_horizon=2,
        prediction_horizon=8,
        action_horizon=4,
        rate_hz=50.0,
    )
    served = Served(spec=spec, robot=None, sha256="0" * 64, instructed=True)
    told = unpack(pack(dump_served(served)))
    assert parse_served(told, "server") == served
    assert told["state_units"] == ["rad", "m"]
    blank = blank_window(spec)
    question = {"state": blank.state[0], "images": {"wrist": blank.images["wrist"][0]}}
    found = parse_question(unpack(pack(question)), spec).window
    assert found.images["wrist"].shape == (1, 2, 16, 24, 3)
    assert found.instructions == ()
    told = dump_question(Window(state=blank.state, instructions=("push",)), 3, None, 5)
    del told["images"]
    asked = parse_question(unpack(pack(question | told)), spec)
    assert (asked.window.instructions, asked.executed, asked.prefix) == (("push",), 3, None)
    wrong = {"images": {"wrist": np.zeros((2, 16, 24, 3))}}
    with pytest.raises(InputError, match="uint8 in image 'wrist'"):
        parse_question(question | wrong, spec)
    wrong = {"images": {"wrist": np.zeros((2, 24, 16, 3), np.uint8)}}
    with pytest.raises(InputError, match=r"image 'wrist'.*\(2, 16, 24, 3\), got \(2, 24, 16, 3\)"):
        parse_question(question | wrong, spec)
    assert served.question_bytes > 2 * 16 * 24 * 3


# ---- a server of openpi's protocol -------------------------------------------------------------


JOINTS = tuple(f"command/{name}" for name in PANDA.joint_names)
COLUMNS = (None, *(f"velocity/{name}" for name in reversed(PANDA.joint_names)))
DIALECT = Dialect(
    state={"observation/joint_position": JOINTS, "observation/gripper_position": (0.5,)},
    images={},
    actions=COLUMNS,
    prompt=("prompt", "reach the red cup"),
)


@contextmanager
def openpi_like(asked, horizon=10):
    """First a map of anything, then observation -> actions; nothing else is understood."""

    def handle(connection):
        connection.send(pack({"reset_pose": [0.0] * 7}))
        for data in connection:
            asked.append(unpack(data))
            actions = np.tile(np.arange(8.0) / 100.0, (horizon, 1))
            connection.send(pack({"actions": actions, "policy_timing": {"infer_ms": 1.0}}))

    with listening(handle) as server:
        yield server


def foreign(server, **changes):
    _, served = served_model()
    dialect = dataclasses.replace(DIALECT, **changes)
    model = RemoteModel(served, RemoteConfig(url=url(server)), dialect)
    model.reset(0)
    return model


def test_server_of_openpi_is_asked_in_its_own_words():
    asked = []
    with openpi_like(asked) as server:
        model = foreign(server)
        actions = model.sample(window())
        assert actions.shape == (1, 7, 7)
        assert_array_equal(
            actions[0, 3], np.arange(7.0, 0.0, -1.0) / 100.0
        )  # by name, in our order
        assert set(asked[0]) == {*DIALECT.state, "prompt"}
        position = asked[0]["observation/joint_position"]
        assert_array_equal(position, PANDA.default_rad.astype(np.float32))
        assert_array_equal(asked[0]["observation/gripper_position"], [0.5])
        assert asked[0]["prompt"] == "reach the red cup"
        model.sample(Window(state=window().state, instructions=("reach the blue cup",)))
        assert asked[1]["prompt"] == "reach the blue cup"
        with pytest.raises(InputError, match="--executor async"):
            model.sample(window(), prefix=Prefix(actions=np.zeros((1, 7, 7)), weights=np.zeros(7)))
        model.close()


@pytest.mark.parametrize(
    ("horizon", "changes", "words"),
    [
        (5, {}, r"shape \(7, 7\), got \(5, 7\)"),
        (10, {"actions": COLUMNS[1:]}, r"\(steps, 7\), got \(10, 8\)"),
    ],
)
def test_answer_of_another_shape_is_a_failure(horizon, changes, words):
    with openpi_like([], horizon) as server, pytest.raises(PolicyFailureError, match=words) as bad:
        foreign(server, **changes).sample(window())
    assert bad.value.kind is Failure.BAD_ANSWER


# ---- descriptors and commands ------------------------------------------------------------------


def describe(folder, **changes):
    folder.mkdir(exist_ok=True)
    write_descriptor(folder, "ws://127.0.0.1:9", served_model()[1], token_file=None, reply_s=1.0)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


DESCRIBED = {"state": {"s": list(JOINTS)}, "images": {}, "actions": list(COLUMNS)}


def test_descriptor_of_the_tutorial_is_a_policy(tmp_path, repo, capsys):
    text = (repo / "docs/tutorials/serve_a_policy.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "config.json").write_text(block)
    policy = load_policy(tmp_path, PANDA)
    assert policy.spec.rate_hz == 15.0
    assert cli.main(["policy", "inspect", str(tmp_path)]) == 0
    assert "my_vla, served at ws://127.0.0.1:8000 (openpi)" in capsys.readouterr().out
    asked = []
    with openpi_like(asked, horizon=16) as server:
        described = json.loads(block) | {"url": url(server)}
        (tmp_path / "config.json").write_text(json.dumps(described))
        engine = make_engine(load_policy(tmp_path, PANDA), EngineConfig(lockstep=True))
        engine.reset(0)
        observation = Observation(
            stamp_ns=0,
            qpos_rad=PANDA.default_rad,
            qvel_rad_s=np.zeros(7),
            images={"wrist": np.zeros((224, 224, 3), dtype=np.uint8)},
        )
        assert engine.tick(observation) is not None
        engine.close()
    assert asked[0]["observation/wrist_image_left"].shape == (224, 224, 3)


def test_descriptor_is_a_checkpoint_like_any_other(tmp_path):
    policy = load_policy(describe(tmp_path / "there"), PANDA)
    local = load_policy(CHECKPOINT, PANDA)
    assert policy.spec == local.spec
    with pytest.raises(InputError, match="expected the robot panda"):
        load_policy(tmp_path / "there", G1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 1, got 2"),
        ({"url": ""}, "text in 'url'"),
        ({"reply_s": 0}, "'reply_s'"),
        ({"served": {}}, "tells"),
        ({"tokenfile": "x"}, "got ['tokenfile']"),
        ({"dialect": DESCRIBED | {"state": "s"}}, "'state'"),
        ({"dialect": DESCRIBED | {"state": {"s": ["elbow"]}}}, "got 'elbow'"),
        ({"dialect": DESCRIBED | {"state": {"s": [True]}}}, "got True"),
        ({"dialect": DESCRIBED | {"actions": [None]}}, "'actions'"),
        ({"dialect": DESCRIBED | {"images": {"wrist": "w"}}}, "got ['wrist']"),
        ({"dialect": DESCRIBED | {"prompt": ["a"]}}, "'prompt'"),
    ],
)
def test_bad_descriptor_is_refused_with_one_sentence(tmp_path, changes, words):
    with pytest.raises(InputError) as refused:
        load_policy(describe(tmp_path / "bad", **changes), PANDA)
    assert words in str(refused.value)


def test_policy_that_is_served_is_described_for_the_graph(server):
    with local_policy(url(server), token_file=None, reply_s=3.0) as folder:
        assert load_policy(folder, PANDA).spec == load_policy(CHECKPOINT, PANDA).spec
        assert json.loads((folder / "config.json").read_text())["reply_s"] == 3.0
    assert not folder.exists()
    with local_policy("some/where", token_file=None, reply_s=3.0) as folder:
        assert folder == Path("some/where")


def test_commands_refuse_bad_input_with_one_sentence(tmp_path, capsys):
    assert cli.main(["serve", "--policy", str(tmp_path)]) == 2
    assert cli.main(["serve", "--policy", str(CHECKPOINT), "--host", "0.0.0.0"]) == 2
    assert "add --token-file" in capsys.readouterr().err
    assert cli.main(["serve", "--policy", str(CHECKPOINT), "--port", "70000"]) == 2


def test_policy_that_does_not_plan_is_not_served(tmp_path, capsys):
    joints = PANDA.joint_names
    config = ActorConfig(
        name="feedback",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(type="position_offset_from_default", joints=joints, scale=0.25),
        hold_pose_rad={},
        observation=(TermConfig(term="joint_pos"),),
        duration_s=None,
        start_pose_rad=dict(zip(joints, PANDA.default_rad.tolist(), strict=True)),
        source={},
    )
    network = mlp_onnx([np.full((7, 7), 0.01, np.float32)], [np.zeros(7, np.float32)])
    save_checkpoint(tmp_path / "actor", config, network)
    assert cli.main(["serve", "--policy", str(tmp_path / "actor"), "--port", "0"]) == 2
    assert "belongs beside the robot" in capsys.readouterr().err


def test_model_for_a_task_without_a_robot_has_no_robot():
    assert load_chunk_model(CHECKPOINT).robot.name == "panda"
