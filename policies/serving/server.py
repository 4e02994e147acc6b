"""Answers questions to a model over a websocket, one client at a time."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets import CloseCode
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from policies.diffusion.chunk_policy import RobotModel
from policies.diffusion.interface import blank_window
from policies.errors import InputError
from policies.serving.protocol import Served, dump_served, parse_question
from policies.serving.wire import pack, unpack

log = logging.getLogger("realign.serve")
_TOKEN_CHARACTERS = 16
_OPEN_S = 5.0
_MAX_CONNECTIONS = 32
_PING_S = 5.0
_CLOSE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where a server listens, and to whom.

    Attributes:
        host: address to listen on; others than the loopback need a token.
        port: TCP port; 0 for any that is free.
        token: what a client must know, or None.
        certificate: PEM file with the certificate to encrypt with, or None.
        key: PEM file with its private key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InputError(f"port: expected a number from 0 to 65535, got {self.port}")
        if self.token is None and not is_loopback(self.host):
            raise InputError(
                f"--host {self.host}: expected a token for an address that other machines can "
                "reach; add --token-file, or listen on 127.0.0.1 and forward the port"
            )
        if (self.certificate is None) != (self.key is None):
            raise InputError(
                "--certificate and --key: expected both or none; the key is the private one of the "
                "certificate"
            )

    def encryption(self) -> ssl.SSLContext | None:
        """What connections are encrypted with; None without a certificate.

        Raises:
            InputError: the files are not a certificate and its key.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:  # with a password that is wrong, a key that has one is an error, not a question
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InputError(
                f"--certificate {self.certificate} --key {self.key}: expected PEM files of a "
                f"certificate and its private key without a password: {error}"
            ) from error
        return context


def is_loopback(host: str) -> bool:
    """True for an address of this machine that no other one can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None) -> str | None:
    """The token in a file; None without one.

    Raises:
        InputError: the file is not there, or what it holds is too short to be a secret.
    """
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:  # a ValueError also of what is no name of a file
        raise InputError(f"{path}: expected a file with a token in ASCII: {error}") from error
    if len(token) < _TOKEN_CHARACTERS or not token.isprintable() or " " in token:
        raise InputError(
            f"{path}: expected a token of at least {_TOKEN_CHARACTERS} characters without spaces, "
            "got something else; make one: openssl rand -hex 32 > FILE"
        )
    return token


class PolicyServer:
    """Serves one model; a context manager that listens while it is open.

    Args:
        model: what answers.
        served: what is told of it.
        config: where to listen.

    Raises:
        InputError: the address cannot be listened on.
    """

    def __init__(self, model: RobotModel, served: Served, config: ServeConfig) -> None:
        self._model, self._served, self._config = model, served, config
        self._greeting = pack(dump_served(served))
        self._one_client = threading.Lock()
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        encryption = config.encryption()
        model.reset(0)
        model.sample(blank_window(served.spec))  # the first answer is the slowest
        try:
            self._server: Server = serve(
                self._serve_client,
                config.host,
                config.port,
                compression=None,  # bombs; and pixels and noise do not get smaller
                max_size=served.question_bytes,
                max_queue=2,
                origins=[None],  # a page in a browser is no robot
                process_request=self._admit,
                open_timeout=_OPEN_S,
                ping_interval=_PING_S,
                ping_timeout=_PING_S,
                close_timeout=_CLOSE_S,
                server_header=None,
                ssl=encryption,
            )
        except OSError as error:
            raise InputError(
                f"--host {config.host} --port {config.port}: expected an address to listen on: "
                f"{error.strerror or error}; choose another port"
            ) from error

        self._open, self._server.handler = self._server.handler, self._limit
        if encryption is None and not is_loopback(config.host):
            log.warning("the token travels in clear; add --certificate and --key")

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self._server.socket.getsockname()[1])

    def serve_forever(self) -> None:
        """Accept clients until :meth:`close`."""
        self._server.serve_forever()

    def close(self) -> None:
        """Listen no more and leave the clients."""
        self._server.shutdown()

    def _limit(self, accepted: socket.socket, address: Any) -> None:
        """Serve a connection that was accepted, unless too many are open that say nothing."""
        placed = self._places.acquire(blocking=False)
        try:
            if not placed:
                accepted.shutdown(socket.SHUT_RDWR)  # there is nothing to read: it ends at once
            self._open(accepted, address)
        finally:
            if placed:
                self._places.release()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer to the opening request: health, a refusal, or None to go on."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._config.token is not None:
            given = " ".join(request.headers.get_all("Authorization"))
            wanted = f"Api-Key {self._config.token}"
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode()):
                log.warning("a client without the token was refused")
                return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the server's token\n")
        return None

    def _serve_client(self, connection: ServerConnection) -> None:
        try:
            # A model remembers: its noise and its rolling plan belong to one robot.
            if not self._one_client.acquire(blocking=False):
                connection.close(CloseCode.TRY_AGAIN_LATER, "another client is connected")
                return
            try:
                log.info("a client came")
                self._talk(connection)
                log.info("the client left")
            finally:
                self._one_client.release()
        except (ConnectionClosed, TimeoutError):
            log.info("the connection broke")

    def _talk(self, connection: ServerConnection) -> None:
        connection.send(self._greeting)
        self._model.reset(0)
        for data in connection:
            try:
                if isinstance(data, str):
                    raise InputError("request: expected a binary message, got text")
                message = unpack(data, max_bytes=self._served.question_bytes)
                connection.send(pack(self._answer(message)))
            except InputError as error:
                connection.send(str(error))
            except ConnectionClosed:
                raise
            except Exception as error:  # what a model raises is for its own log, not for the wire
                log.exception("the model failed")
                connection.send(
                    f"the model failed with {type(error).__name__}; see the server's log"
                )

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        repeated = {key: message[key] for key in ("request_id",) if key in message}
        if any(type(value) is not int for value in repeated.values()):
            raise InputError("request: expected a whole number in 'request_id'")
        if "reset" in message:
            seed = message["reset"]
            if type(seed) is not int or seed < 0:
                raise InputError("request: expected a seed of 0 or more in 'reset'")
            self._model.reset(seed)
            return {"reset": seed, **repeated}
        question = parse_question(message, self._served.spec)
        start = time.perf_counter()
        actions = self._model.sample(
            question.window, executed=question.executed, prefix=question.prefix
        )
        took_ms = (time.perf_counter() - start) * 1e3
        return {"actions": actions[0], "server_timing": {"infer_ms": took_ms}, **repeated}
