"""The batched stepper on MuJoCo Warp: thousands of robots on an NVIDIA GPU.

An option: ``pip install mujoco-warp`` of the same minor version as MuJoCo. It computes in float32,
and finds contacts of meshes in its own way: without contact it agrees with
:class:`sim2real.sim.batch.BatchStepper` to 1e-6 rad, on the ground the two drift apart.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

_CONTACTS = 64  # room for each robot: a legged one that lies on the floor has some 30
_CONSTRAINTS = 384


class WarpStepper(BatchStepper):
    """Steps B copies of a robot on Warp's device; the same calls as the base class.

    Memory on the device is laid out for the B of the first call and again when B changes.

    Args:
        robot: the robot.
        gap: dynamics gap, None for nominal.
        rate_hz: control rate, default ``robot.control_rate_hz``.
        device: Warp's name of it (``cuda:0``, ``cpu``); None for the first GPU.

    Raises:
        InputError: MuJoCo Warp is not installed, or there is no GPU.
    """

    def __init__(
        self,
        robot: RobotSpec,
        gap: Gap | None = None,
        *,
        rate_hz: float | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(robot, gap, rate_hz=rate_hz, threads=1)
        self._warp, self._engine = _modules()
        self._device = _device(self._warp, device)
        with self._warp.ScopedDevice(self._device):
            self._worlds = self._engine.put_model(self.model)
        self._batch, self._graph, self._memory = 0, None, None

    def run(
        self, state: SimState, at_motor_rad: Float, models: Sequence[mujoco.MjModel] | None = None
    ) -> SimState:
        """As the base class, with one model for all.

        Raises:
            InputError: a model for each state was given.
        """
        if models is not None:
            raise InputError(
                "expected one model for all robots on MuJoCo Warp, got one for each; "
                "step groups of equal dynamics or use the CPU"
            )
        batch, steps, _ = at_motor_rad.shape
        model = self.model
        start = np.tile(self._base, (batch, 1))
        qpos, qvel = start[:, 1 : 1 + model.nq], start[:, 1 + model.nq :][:, : model.nv]
        self.layout.write(state, qpos, qvel)
        control = np.zeros((batch, model.nu), dtype=np.float32)
        if self.layout.fingers:
            control[:, self.layout.fingers] = self.robot.gripper.max_width_m / 2.0  # type: ignore[union-attr]
        ends = []
        with self._warp.ScopedDevice(self._device):
            data = self._room(batch)
            data.qpos.assign(qpos.astype(np.float32))
            data.qvel.assign(qvel.astype(np.float32))
            data.qacc_warmstart.zero_()  # the same state gives the same step, whatever came before
            for k in range(steps):
                if k == 0 or not np.array_equal(at_motor_rad[:, k], at_motor_rad[:, k - 1]):
                    control[:, self.layout.ctrl] = at_motor_rad[:, k]
                    data.ctrl.assign(control)
                self._step(data)
                if (k + 1) % self.decimation == 0:
                    ends.append((data.qpos.numpy().copy(), data.qvel.numpy().copy()))
        return self.layout.read(
            np.stack([q for q, _ in ends], axis=1).astype(np.float64),
            np.stack([v for _, v in ends], axis=1).astype(np.float64),
        )

    def _room(self, batch: int) -> Any:
        """Memory on the device for ``batch`` robots."""
        if batch != self._batch:
            self._memory = self._engine.make_data(
                self.model, nworld=batch, nconmax=_CONTACTS, njmax=_CONSTRAINTS
            )
            self._batch, self._graph = batch, None
        return self._memory

    def _step(self, data: Any) -> None:
        """One physics step; on a GPU its hundred kernels are launched as one recorded graph."""
        if not self._device.is_cuda:
            self._engine.step(self._worlds, data)
            return
        if self._graph is None:
            keep = [array.numpy().copy() for array in (data.qpos, data.qvel)]
            self._engine.step(self._worlds, data)  # compiles; a recording must not
            with self._warp.ScopedCapture() as capture:
                self._engine.step(self._worlds, data)
            self._graph = capture.graph
            for array, value in zip((data.qpos, data.qvel), keep, strict=True):
                array.assign(value)
            data.qacc_warmstart.zero_()
        self._warp.capture_launch(self._graph)


def _modules() -> tuple[Any, Any]:
    try:
        return importlib.import_module("warp"), importlib.import_module("mujoco_warp")
    except ModuleNotFoundError as error:
        version = ".".join(mujoco.__version__.split(".")[:2])
        raise InputError(
            f"expected MuJoCo Warp, but the module {error.name} is not installed; "
            f'run: pip install "mujoco-warp=={version}.*"'
        ) from None


def _device(warp: Any, name: str | None) -> Any:
    warp.config.quiet = True
    warp.init()
    if name is None and not warp.is_cuda_available():
        raise InputError(
            "expected an NVIDIA GPU for MuJoCo Warp, found none; leave it to the CPU's stepper, "
            "which is faster there"
        )
    return warp.get_device(name or "cuda:0")
