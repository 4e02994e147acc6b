"""An imported LeRobot checkpoint as a model that answers windows with chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.diffusion.config import RobotBinding
from policies.diffusion.interface import ChunkSpec, Prefix, Window, blank_window
from policies.diffusion.model import check_window
from policies.errors import InputError
from policies.interface import Float
from policies.runtime.failure import Failure, PolicyFailureError
from policies.vla.lerobot.config import LeRobotConfig
from policies.vla.lerobot.mapping import to_lerobot, to_si
from policies.vla.lerobot.process import PYTHON_VARIABLE, Limits, Worker, find_python
from policies.vla.lerobot.workers.wire import Arrays

ENGINE = "lerobot"
_LONGEST = 200  # characters of a worker's that a sentence quotes


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a checkpoint is evaluated.

    Attributes:
        python: interpreter that has LeRobot; None for what ``REALIGN_LEROBOT_PYTHON`` says.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        threads: CPU threads; None for half of the cores, since the robot's loop needs some too.
        limits: how long the worker may take.
    """

    python: str | None = None
    device: str = "auto"
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)


class LeRobotModel:
    """Implements :class:`policies.diffusion.interface.ChunkModel` in another interpreter.

    The worker starts at the first :meth:`reset`, with one trial answer, and starts again at a reset
    after it has died. The model does not remember observations: a window holds all that it sees.

    Args:
        config: names, units, robot.
        spec: sizes, names, rates.
        folder: LeRobot's own files.
        run: where and how it is evaluated.
        vlm: folder with settings and tokenizer of a vision-language model; None for ``vlm`` in
            ``folder``, if there is one.

    Attributes:
        instruction: what the robot is told to do where a window does not say it; a policy without
            language ignores both.
        started: what the worker said of itself and of the checkpoint, empty before it has started.
    """

    def __init__(
        self,
        config: LeRobotConfig,
        spec: ChunkSpec,
        folder: Path,
        run: RunConfig | None = None,
        *,
        vlm: Path | None = None,
    ) -> None:
        self.config, self.spec = config, spec
        self.instruction = config.instruction
        self.network_calls = 0
        self.started: dict[str, Any] = {}
        self._folder, self._run = folder, run or RunConfig()
        self._vlm = vlm or folder / "vlm"
        self._features = {camera: feature for feature, camera in config.cameras.items()}
        self._worker: Worker | None = None
        self._batch = 1

    @property
    def robot(self) -> RobotBinding | None:
        """The robot that it was imported for, or None."""
        return self.config.robot

    @property
    def spec_error(self) -> str:
        """How error texts name the model."""
        return f"model {self.spec.name!r}"

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return None if self._worker is None or self._worker.closed else self._worker.pid

    def reset(self, seed: int, batch: int = 1) -> None:
        """See :class:`policies.diffusion.interface.ChunkModel`.

        Raises:
            PolicyFailureError: the worker cannot be started, or cannot load the checkpoint.
        """
        if self._worker is None or self._worker.closed:
            self._worker = self._start()
        self._worker.ask({"op": "reset", "seed": seed}, limit_s=self._run.limits.call_s)
        self._batch, self.network_calls = batch, 0

    def sample(self, window: Window, *, executed: int = 0, prefix: Prefix | None = None) -> Float:
        """See :class:`policies.diffusion.interface.ChunkModel`.

        Raises:
            InputError: the window does not fit the model, or a plan is to be continued.
            PolicyFailureError: the worker died, failed, took too long or answered nonsense.
        """
        if prefix is not None:
            raise InputError(
                f"{self.spec_error}: expected no plan to continue, which LeRobot's policies cannot "
                "do; use another executor than rtc"
            )
        check_window(self.spec_error, window, self)
        if len(window.state) != self._batch:
            raise InputError(
                f"{self.spec_error}: expected windows of {self._batch} runs, as said at reset, got "
                f"{len(window.state)}; reset with another batch"
            )
        if window.instructions and len(window.instructions) != self._batch:
            raise InputError(
                f"{self.spec_error}: expected an instruction for each of {self._batch} runs, got "
                f"{len(window.instructions)}; give one each, or none"
            )
        if self._worker is None:
            self.reset(0, self._batch)
        assert self._worker is not None
        self.network_calls += 1
        return self._ask(self._worker, window, self._run.limits.call_s)

    def close(self) -> None:
        """End the worker; the next reset starts another."""
        if self._worker is not None:
            self._worker.close()

    # ---- inside -------------------------------------------------------------------------------

    def _ask(self, worker: Worker, window: Window, limit_s: float) -> Float:
        state = to_lerobot(np.asarray(window.state, dtype=np.float64), self.config.inputs)
        arrays: Arrays = {"state": state.astype(np.float32)}
        for camera, feature in self._features.items():
            arrays[feature] = window.images[camera]
        told = window.instructions or (self.instruction or "",) * len(window.state)
        _, out = worker.ask({"op": "sample", "tasks": told}, arrays, limit_s=limit_s)
        actions = out.get("actions")
        shape = (len(window.state), self.spec.prediction_horizon, len(self.spec.action_names))
        if actions is None or actions.shape != shape or not np.isfinite(actions).all():
            got = "none" if actions is None else f"shape {actions.shape}"
            if actions is not None and actions.shape == shape:
                got = "NaN or infinity"
            raise PolicyFailureError(
                Failure.BAD_ANSWER,
                f"{self.spec_error}: expected finite actions of shape {shape}, got {got}; check "
                "the checkpoint and its normalisation",
            )
        return to_si(actions.astype(np.float64), self.config.action)

    def _start(self) -> Worker:
        """Start a worker, let it load the checkpoint, and try it."""
        python, limits = find_python(self._run.python), self._run.limits
        if python is None:
            raise PolicyFailureError(
                Failure.SERVER_REFUSED,
                f"{self.spec_error}: expected the path of a Python interpreter that has LeRobot, "
                f"got none; give it with --python or in {PYTHON_VARIABLE}",
            )
        worker = Worker(ENGINE, python, start_s=limits.start_s)
        try:
            loaded = self._load(worker)
            self.started = {**worker.hello, **loaded}
            self._ask(worker, blank_window(self.spec), limits.load_s)  # the slow one
        except BaseException:
            worker.close()
            raise
        return worker

    def _load(self, worker: Worker) -> dict[str, Any]:
        header = {
            "op": "load",
            "folder": str(self._folder.resolve()),
            "vlm": str(self._vlm.resolve()) if self._vlm.is_dir() else None,
            "device": self._run.device,
            "threads": self._run.threads,
        }
        loaded, _ = worker.ask(header, limit_s=self._run.limits.load_s)
        expected = {
            "state": len(self.spec.state_names),
            "actions": len(self.spec.action_names),
            "cameras": sorted(self._features.values()),
        }
        for key, value in expected.items():
            found = loaded.get(key)
            if isinstance(found, list):
                found = sorted(map(str, found))
            if found != value:
                raise PolicyFailureError(
                    Failure.SERVER_REFUSED,
                    f"{self.spec_error}: expected {key} {value}, LeRobot's policy has "
                    f"{ascii(found)[:_LONGEST]}; import the checkpoint again",
                )
        return loaded
