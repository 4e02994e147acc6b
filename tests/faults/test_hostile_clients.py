"""A policy server and those who connect to it: half-open, slow, many, lying; and encryption."""

import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from policies.checkpoint import load_policy
from policies.diffusion.interface import Window
from policies.errors import InputError
from policies.robots import PANDA
from policies.runtime.failure import Failure, PolicyFailureError
from policies.serving import server as server_module
from policies.serving.client import RemoteConfig, RemoteModel, open_session
from policies.serving.protocol import Served
from policies.serving.server import ServeConfig

pytestmark = pytest.mark.timeout(120)
TOKEN = "a-token-of-enough-characters"


@pytest.fixture(scope="module")
def served(repo):
    policy = load_policy(repo / "policies/checkpoints/panda_reach", PANDA)
    sha256 = policy.spec.sha256
    return policy.model, Served(spec=policy.model.spec, robot=policy.model.robot, sha256=sha256)


def handlers(server):
    """Connections that are being served, whatever they have said so far."""
    return len(server._server.handler_threads)


def wait(condition, what, limit_s=60.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def ask(url, **config):
    """One question, as a robot asks it."""
    session = open_session(RemoteConfig(url=url, connect_s=30.0, **config))
    session.close()
    return session.greeting


def test_clients_that_do_not_go_on_are_dropped(running, served, monkeypatch):
    """Connected and silent; a byte now and then; a line that does not end."""
    monkeypatch.setattr(server_module, "_OPEN_S", 0.5)
    with running(*served) as server:
        address = ("127.0.0.1", server.port)
        silent, slow, endless = (socket.create_connection(address) for _ in range(3))
        end = time.monotonic() + 20.0
        request = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-a: b\r\n" * 10
        dropped = False
        while not dropped:  # two bytes a tenth of a second: the request would take seconds
            assert time.monotonic() < end
            try:
                slow.sendall(request[:2])
                endless.sendall(b"G" * 5000)
                request = request[2:] or b"X-"
                time.sleep(0.1)
            except OSError:
                dropped = True
        wait(lambda: handlers(server) == 0, "all dropped")
        for one in (silent, slow, endless):
            one.close()
        assert ask(f"ws://127.0.0.1:{server.port}")


def test_connections_beyond_a_number_are_closed_at_once(running, served):
    most = server_module._MAX_CONNECTIONS
    with running(*served) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(most)]
        wait(lambda: handlers(server) == most, "all accepted")
        before = threading.active_count()
        for _ in range(5 * most):
            extra = socket.create_connection(("127.0.0.1", server.port), timeout=30.0)
            with extra, suppress(ConnectionResetError):
                assert extra.recv(1) == b""
        wait(lambda: threading.active_count() <= before, "no threads of those sent away")
        for one in idle:
            one.close()
        wait(lambda: handlers(server) == 0, "all gone")
        assert ask(f"ws://127.0.0.1:{server.port}")


def test_a_robot_that_is_connected_goes_on_while_others_crowd(running, served):
    with running(*served) as server:
        model = RemoteModel(
            served[1], RemoteConfig(url=f"ws://127.0.0.1:{server.port}", reply_s=30.0)
        )
        model.reset(0)
        state = np.zeros((1, 1, 31))
        state[0, 0, :7] = PANDA.default_rad
        first = model.sample(Window(state=state))
        crowd = []
        for _ in range(100):
            crowd.append(socket.create_connection(("127.0.0.1", server.port)))
        model.reset(0)
        assert np.array_equal(model.sample(Window(state=state)), first)
        model.close()
        for one in crowd:
            one.close()


@pytest.mark.parametrize("value", [b"Api-Key \xff\xfe", b"\x80", b"Api-Key " + b"x" * 4000])
def test_a_token_of_any_bytes_is_refused_like_another(running, served, value):
    with running(*served, token=TOKEN) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30.0) as raw:
            raw.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
                b"Authorization: " + value + b"\r\n\r\n"
            )
            answer = raw.recv(4096)
        assert answer.split(b" ")[1] in (b"400", b"401"), answer
        assert ask(f"ws://127.0.0.1:{server.port}", token=TOKEN)


def test_tokens_are_compared_in_constant_time(running, served, monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(server_module.hmac, "compare_digest", compare)
    with running(*served, token=TOKEN) as server:
        headers = {"Authorization": "Api-Key wrong"}
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{server.port}", additional_headers=headers)
    assert compared == [(b"Api-Key wrong", f"Api-Key {TOKEN}".encode())]


# ---- encryption --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    words += " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run(
            ["openssl", *words.split(), "-keyout", "key.pem", "-out", "certificate.pem"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return {"certificate": folder / "certificate.pem", "key": folder / "key.pem"}


def test_encrypted_for_who_trusts_the_certificate(running, served, certificate, monkeypatch):
    with running(*served, token=TOKEN, **certificate) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate["certificate"]))
        assert ask(f"wss://127.0.0.1:{server.port}", token=TOKEN)
        with pytest.raises(PolicyFailureError, match="401"):
            ask(f"wss://127.0.0.1:{server.port}")


def test_a_server_that_nobody_vouches_for_is_told_no_token(
    running, served, certificate, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with running(*served, token=TOKEN, **certificate) as server:
        for scheme in ("wss", "ws"):
            config = RemoteConfig(url=f"{scheme}://127.0.0.1:{server.port}", connect_s=1.0)
            with pytest.raises(PolicyFailureError) as lost:
                open_session(config)
            assert lost.value.kind is Failure.SERVER_LOST


def test_a_handshake_that_stops_is_dropped(running, served, certificate, monkeypatch):
    monkeypatch.setattr(server_module, "_OPEN_S", 0.5)
    with running(*served, **certificate) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60.0) as half:
            half.sendall(b"\x16\x03\x01\x02\x00")  # the first bytes of a greeting
            with suppress(ConnectionResetError):
                assert half.recv(1) == b""
        wait(lambda: handlers(server) == 0, "gone")


def test_old_versions_are_not_spoken(served, certificate):
    context = ServeConfig(**certificate).encryption()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_bad_files_are_named(certificate, tmp_path):
    with pytest.raises(InputError, match="both or none"):
        ServeConfig(certificate=certificate["certificate"])
    with pytest.raises(InputError, match="expected PEM files"):
        ServeConfig(certificate=tmp_path / "none", key=certificate["key"]).encryption()
    (tmp_path / "bad").write_text("nothing")
    with pytest.raises(InputError, match="expected PEM files"):
        ServeConfig(certificate=tmp_path / "bad", key=certificate["key"]).encryption()
    with pytest.raises(InputError, match="expected PEM files"):
        ServeConfig(certificate=certificate["key"], key=certificate["certificate"]).encryption()
