"""A model that answers over a websocket, with limits on time and size for whatever it says."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets import CloseCode
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from policies.diffusion.config import RobotBinding
from policies.diffusion.interface import ChunkSpec, Prefix, Window
from policies.errors import InputError
from policies.interface import Float
from policies.runtime.failure import Failure, PolicyFailureError
from policies.serving.protocol import Served, dump_question, parse_actions, parse_served
from policies.serving.wire import pack, unpack

MESSAGE_BYTES = 1024 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_CLOSE_S = 0.5
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Where a model is, and how long it may take.

    Attributes:
        url: ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        token: what the server wants to be told, or None.
        connect_s: time for connecting, with repeated attempts, s.
        reply_s: time for an answer, s.
    """

    url: str
    token: str | None = None
    connect_s: float = 10.0
    reply_s: float = 2.0


class Session:
    """One connection to a server. Whatever goes wrong closes it: no answer can come too late.

    Args:
        config: where the server is.
        connect_s: time for the opening, s.

    Raises:
        PolicyFailureError: there is none, it does not let us in, or it says something else.

    Attributes:
        greeting: the server's first message.
    """

    def __init__(self, config: RemoteConfig, connect_s: float) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()
        headers = {"Authorization": f"Api-Key {config.token}"} if config.token else None
        try:
            self._connection: ClientConnection = self._stack.enter_context(
                connect(
                    config.url,
                    compression=None,
                    additional_headers=headers,
                    proxy=None,
                    open_timeout=connect_s,
                    close_timeout=_CLOSE_S,
                    max_size=MESSAGE_BYTES,
                    max_queue=1,
                )
            )
        except InvalidURI as error:
            raise InputError(f"{config.url}: expected ws://HOST:PORT, got {error}") from error
        except InvalidStatus as error:
            raise PolicyFailureError(
                Failure.SERVER_REFUSED,
                f"{config.url}: the server refuses with HTTP {error.response.status_code}; give "
                "its token with --token-file",
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise PolicyFailureError(
                Failure.SERVER_LOST,
                f"{config.url}: expected a certificate that this machine trusts, got one that is "
                f"not ({error.verify_message}); name the file of one that signed itself in "
                "SSL_CERT_FILE",
            ) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise self._lost(f"no connection: {error}") from error
        try:
            self.greeting = self.receive(connect_s)
        except PolicyFailureError:
            self.close()
            raise

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a question and return what comes.

        Raises:
            PolicyFailureError: nothing came in time, or no message.
        """
        try:
            self._connection.send(pack(message))
            return self.receive(self._config.reply_s)
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise self._lost(f"the connection ended: {error}") from error
        except PolicyFailureError:
            self.close()
            raise

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message.

        Raises:
            PolicyFailureError: nothing came in time, or no message.
        """
        url = self._config.url
        try:
            data = self._connection.recv(timeout=seconds)
        except TimeoutError as error:
            raise PolicyFailureError(
                Failure.SERVER_SLOW,
                f"{url}: expected an answer within {seconds:g} s, got none; is the server stuck?",
            ) from error
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                raise PolicyFailureError(
                    Failure.BAD_ANSWER, f"{url}: expected at most {MESSAGE_BYTES} bytes, got more"
                ) from error
            raise self._lost(f"the connection ended: {error}") from error
        if isinstance(data, str):
            words = " ".join(data.split())[:_SHOWN]
            raise PolicyFailureError(Failure.SERVER_REFUSED, f"{url}: the server says: {words}")
        try:
            return unpack(data, max_bytes=MESSAGE_BYTES)
        except InputError as error:
            raise PolicyFailureError(Failure.BAD_ANSWER, f"{url}: {error}") from error

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError, ConnectionClosed):
            self._stack.close()

    def _lost(self, words: str) -> PolicyFailureError:
        return PolicyFailureError(
            Failure.SERVER_LOST, f"{self._config.url}: {words}; start the server and try again"
        )


def open_session(config: RemoteConfig) -> Session:
    """Connect, again and again with growing pauses, until the time for it is over.

    Raises:
        PolicyFailureError: the last attempt's failure; a refusal ends the attempts.
    """
    deadline, pause = time.monotonic() + config.connect_s, _FIRST_PAUSE_S
    while True:
        try:
            return Session(config, max(deadline - time.monotonic(), pause))
        except PolicyFailureError as error:
            left = deadline - time.monotonic()
            if error.kind is not Failure.SERVER_LOST or left <= pause:
                raise
        time.sleep(pause)
        pause = min(2.0 * pause, _LONGEST_PAUSE_S)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a server of openpi's protocol is asked that knows nothing of our names.

    Attributes:
        state: key of the question -> its numbers, each the name of a state or a constant.
        images: camera name -> key of its newest image, (H, W, 3).
        actions: name of each column of an answer; None for columns that are left out.
        prompt: key of the instruction, and the text where a window has none; or None.
    """

    state: dict[str, tuple[str | float, ...]]
    images: dict[str, str]
    actions: tuple[str | None, ...]
    prompt: tuple[str, str] | None = None

    def question(self, window: Window, spec: ChunkSpec) -> dict[str, Any]:
        """What the server is asked with the newest observation of a window."""
        newest = dict(zip(spec.state_names, window.state[0, -1].tolist(), strict=True))
        question: dict[str, Any] = {
            key: np.array(
                [newest[x] if isinstance(x, str) else x for x in numbers], dtype=np.float32
            )
            for key, numbers in self.state.items()
        }
        for name, key in self.images.items():
            question[key] = np.ascontiguousarray(window.images[name][0, -1])
        if self.prompt is not None:
            key, text = self.prompt
            question[key] = window.instructions[0] if window.instructions else text
        return question

    def answer(self, message: dict[str, Any], spec: ChunkSpec) -> dict[str, Any]:
        """The server's answer with the columns of ``spec``.

        Raises:
            InputError: it has another number of columns.
        """
        actions = message.get("actions")
        if not isinstance(actions, np.ndarray) or actions.shape[1:] != (len(self.actions),):
            found = actions.shape if isinstance(actions, np.ndarray) else type(actions).__name__
            raise InputError(
                f"answer: expected 'actions' of shape (steps, {len(self.actions)}), got {found}"
            )
        columns = [self.actions.index(name) for name in spec.action_names]
        return {"actions": actions[:, columns]}


class RemoteModel:
    """Implements :class:`policies.diffusion.chunk_policy.RobotModel` with a server.

    Nothing is connected before the first :meth:`reset`; each reset connects again if it must, and
    checks that the server still serves what was promised.

    Args:
        served: what is expected of the server.
        config: where it is.
        dialect: names of a foreign server, which then tells nothing of itself that is checked.
    """

    def __init__(
        self, served: Served, config: RemoteConfig, dialect: Dialect | None = None
    ) -> None:
        self.spec: ChunkSpec = served.spec
        self.robot: RobotBinding | None = served.robot
        self.network_calls = 0
        self._served, self._config, self._dialect = served, config, dialect
        self._session: Session | None = None
        self._next_id = 0

    def reset(self, seed: int, batch: int = 1) -> None:
        """See :class:`policies.diffusion.interface.ChunkModel`.

        Raises:
            PolicyFailureError: there is no server, or it does not answer as it should.
            InputError: it serves another policy.
        """
        if batch != 1:
            raise InputError(f"{self._config.url}: expected one run at a time, got {batch}")
        self.network_calls = 0
        if self._session is None:
            session = open_session(self._config)
            try:
                self._check(session.greeting)
            except InputError:
                session.close()
                raise
            self._session = session
        if self._dialect is None:
            answer = self._ask({"reset": seed})
            if answer.get("reset") != seed:
                raise self._bad(f"expected the seed {seed} in 'reset', got {answer.get('reset')!r}")

    def sample(self, window: Window, *, executed: int = 0, prefix: Prefix | None = None) -> Float:
        """See :class:`policies.diffusion.interface.ChunkModel`.

        Raises:
            PolicyFailureError: the server does not answer as it should.
            InputError: it cannot continue a plan.
        """
        self.network_calls += 1
        dialect = self._dialect
        if dialect is not None and prefix is not None:
            raise InputError(
                f"{self._config.url}: expected another executor than rtc for a server that cannot "
                "continue a plan; use --executor async"
            )
        try:
            if dialect is None:
                answer = self._ask(dump_question(window, executed, prefix, self._next_id))
            else:
                answer = dialect.answer(self._ask(dialect.question(window, self.spec)), self.spec)
            return parse_actions(answer, self.spec)
        except InputError as error:
            raise self._bad(str(error)) from error

    def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _check(self, greeting: dict[str, Any]) -> None:
        url = self._config.url
        if self._dialect is not None:
            return
        found = parse_served(greeting, url)
        for name in ("spec", "robot", "sha256"):
            if getattr(found, name) != getattr(self._served, name):
                raise InputError(
                    f"{url}: expected the policy {self._served.spec.name!r} with which this run "
                    f"was set up, got another {name}; set the run up again"
                )

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._session is None:
            raise PolicyFailureError(
                Failure.SERVER_LOST, f"{self._config.url}: not connected; activate the policy again"
            )
        asked, self._next_id = self._next_id, self._next_id + 1
        if self._dialect is None:
            message["request_id"] = asked
        try:
            answer = self._session.ask(message)
        except PolicyFailureError:
            self.close()
            raise
        if self._dialect is None and answer.get("request_id") != asked:
            raise self._bad(f"expected the answer to {asked}, got {answer.get('request_id')!r:.20}")
        return answer

    def _bad(self, words: str) -> PolicyFailureError:
        self.close()
        return PolicyFailureError(Failure.BAD_ANSWER, f"{self._config.url}: {words}")
