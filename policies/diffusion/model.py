"""A trained model that answers windows with chunks: :class:`policies.diffusion.interface`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.backend import Backend
from policies.diffusion.codes import ResidualCodes
from policies.diffusion.config import ModelConfig, RobotBinding, SamplerConfig
from policies.diffusion.guidance import blended, pulled
from policies.diffusion.interface import ChunkModel, Prefix, Window
from policies.diffusion.process import Gains, Process, Regression, Rolling, make_process
from policies.diffusion.samplers import (
    Estimated,
    Estimator,
    adaptive_flow,
    ddim,
    ddpm,
    dpm_solver,
    heun,
)
from policies.diffusion.streaming import RollingPlan
from policies.errors import InputError
from policies.interface import Float
from policies.processors import Float32

_LEVELS_KEPT = 256


class Guide(Protocol):
    """Wish about a plan while it emerges from noise (:mod:`policies.diffusion.steering`)."""

    def __call__(self, clean: Float, rows: NDArray[np.intp]) -> Float:
        """What a plan should rather be.

        Args:
            clean: estimate of the clean actions, raw units, (b, Tp, A).
            rows: which runs of the batch these are, (b,).

        Returns:
            The changed estimate, raw units, (b, Tp, A).
        """


class GenerativeModel:
    """Implements :class:`policies.diffusion.interface.ChunkModel`.

    Args:
        config: of the model.
        backend: its networks.
        sampler: how it is run; None as the checkpoint says.
        codes: codebooks of a ``vqbet`` model.

    Attributes:
        guides: wishes about plans, applied in order; with any, each step costs two evaluations.
        row_calls: evaluations that each run of the last answer took, (B,); with ``adaptive``
            steps they differ, and ``network_calls`` counts those of the slowest.
    """

    def __init__(
        self,
        config: ModelConfig,
        backend: Backend,
        sampler: SamplerConfig | None = None,
        codes: ResidualCodes | None = None,
    ) -> None:
        self.config = config
        self.spec = config.spec
        self.sampler = sampler or config.sampler
        self.process: Process = make_process(
            config.kind,
            diffusion_steps=config.diffusion_steps,
            prediction=config.prediction,
            prediction_horizon=config.spec.prediction_horizon,
            action_horizon=config.spec.action_horizon,
        )
        if config.kind == "ddpm" and self.sampler.steps > config.diffusion_steps:
            raise InputError(
                f"sampler: expected at most {config.diffusion_steps} steps, which is what the "
                f"model was trained with, got {self.sampler.steps}"
            )
        self.guides: tuple[Guide, ...] = ()
        self.network_calls = 0
        self.row_calls: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._gains = lru_cache(_LEVELS_KEPT)(self._gains_of)
        self._backend = backend
        self._codes = codes
        self._bounds = config.action.bounds
        self.reset(0)

    def reset(self, seed: int, batch: int = 1) -> None:
        """See :class:`policies.diffusion.interface.ChunkModel`."""
        self._rng = np.random.default_rng(seed)
        self._batch = batch
        self._plan: RollingPlan | None = None
        self.network_calls = 0

    def sample(self, window: Window, *, executed: int = 0, prefix: Prefix | None = None) -> Float:
        """See :class:`policies.diffusion.interface.ChunkModel`.

        Raises:
            InputError: window or prefix do not fit the model.
        """
        return self.sample_with((), window, executed=executed, prefix=prefix)

    def sample_with(
        self,
        others: Sequence[tuple[float, Estimator]],
        window: Window,
        *,
        executed: int = 0,
        prefix: Prefix | None = None,
    ) -> Float:
        """As :meth:`sample`, with estimates that are averaged with those of other models.

        Args:
            others: weight and estimator of each; the model's own weight is what they leave of 1.
            window: the last observations.
            executed: actions that were executed since the last answer.
            prefix: a plan to continue, or None.

        Raises:
            InputError: window or prefix do not fit the model.
        """
        check_window(self.spec_error, window, self)
        if len(window.state) != self._batch:
            raise InputError(
                f"{self.spec_error}: expected windows of {self._batch} runs, as said at reset, got "
                f"{len(window.state)}; reset with another batch"
            )
        return self._sample(others, window, executed, prefix)

    def _sample(
        self,
        others: Sequence[tuple[float, Estimator]],
        window: Window,
        executed: int,
        prefix: Prefix | None,
    ) -> Float:
        """:meth:`sample_with` for a window that has been checked."""
        if (self.guides or others) and isinstance(self.process, Regression):
            raise InputError(
                f"{self.spec_error}: expected a model that denoises its plans, to steer or compose "
                f"it, got one of kind {self.config.kind!r}; use ddpm, edm, flow or streaming"
            )
        before = self.network_calls
        self.row_calls = np.zeros(self._batch, dtype=np.intp)
        condition = self.condition(window)
        estimator = self.estimator(condition, others)
        if self.guides:
            estimator = pulled(estimator, self.process, self._guided)
        bound = self._bound(prefix)
        if bound is not None:
            estimator = blended(estimator, *bound)
        shape = (self._batch, self.spec.prediction_horizon, len(self.spec.action_names))
        if self._codes is not None:
            actions = self._codes.sample(
                lambda plan, done: self._answer(plan, done, condition),
                self._batch,
                self._rng,
                bound,
            )
        elif isinstance(self.process, Rolling):
            actions = self._stream(estimator, self.process, shape, executed, bound)
        else:
            actions = self._denoise(estimator, self._rng.standard_normal(shape))
        if self.sampler.name != "adaptive":
            self.row_calls[:] = self.network_calls - before
        return self.config.action.restore(actions)

    @property
    def robot(self) -> RobotBinding | None:
        """The robot that it was made for, or None."""
        return self.config.robot

    @property
    def spec_error(self) -> str:
        """How error texts name the model."""
        return f"model {self.spec.name!r}"

    def condition(self, window: Window) -> Float32:
        """What the encoder makes of checked windows, (B, C)."""
        state = self.config.state.normalise(window.state).astype(np.float32)
        images = [window.images[camera.name] for camera in self.spec.cameras]
        return self._backend.encode(state, images)

    def estimator(
        self, condition: Float32, others: Sequence[tuple[float, Estimator]] = ()
    ) -> Estimator:
        """Estimate of clean plans for one condition, without guides and prefix.

        Args:
            condition: from :meth:`condition`, (B, C).
            others: see :meth:`sample_with`.
        """
        lower, upper = self._bounds
        own = 1.0 - sum(weight for weight, _ in others)

        def estimate(noisy: Float, level: Float, rows: NDArray[np.intp]) -> Estimated:
            at = self._gains(level.tobytes(), level.shape)
            seen = condition if len(rows) == len(condition) else condition[rows]
            output, variance = self._answer(at.scale * noisy.astype(np.float32), at.time, seen)
            clean = at.output * output + at.noisy * noisy
            # The mean of what was demonstrated cannot lie outside of it.
            clean = np.minimum(np.maximum(clean, lower), upper)
            if others:
                clean = own * clean
                for weight, other in others:
                    clean = clean + weight * other(noisy, level, rows).clean
            if self.sampler.name != "adaptive":
                return Estimated(clean)
            return Estimated(clean, at.error * np.exp(0.5 * variance.astype(np.float64)))

        return estimate

    def _gains_of(self, level: bytes, shape: tuple[int, ...]) -> Gains:
        return self.process.coefficients(np.frombuffer(level).reshape(shape)).gains()

    def _answer(self, noisy: Float32, time: Float32, condition: Float32) -> tuple[Float32, Float32]:
        self.network_calls += 1
        return self._backend.denoise(noisy, time, condition)

    def _guided(self, clean: Float, rows: NDArray[np.intp]) -> Float:
        scale, centre = np.array(self.config.action.scale), np.array(self.config.action.centre)
        raw = clean * scale + centre
        for guide in self.guides:
            raw = guide(raw, rows)
        out: Float = (raw - centre) / scale
        return out

    def _bound(self, prefix: Prefix | None) -> tuple[Float, Float] | None:
        if prefix is None:
            return None
        shape = (self._batch, self.spec.prediction_horizon, len(self.spec.action_names))
        weights = np.asarray(prefix.weights, dtype=np.float64)
        if prefix.actions.shape != shape or weights.shape != shape[1:2]:
            raise InputError(
                f"{self.spec_error}: expected a prefix of shape {shape} with {shape[1]} weights, "
                f"got {prefix.actions.shape} with {weights.shape}"
            )
        held = weights > 0.0
        if not np.isfinite(prefix.actions[:, held]).all():
            raise InputError(f"{self.spec_error}: expected a finite prefix, got NaN or infinity")
        actions = np.zeros(shape)
        actions[:, held] = self.config.action.normalise(prefix.actions[:, held])
        return actions, weights[:, None]

    def _denoise(self, estimator: Estimator, noise: Float) -> Float:
        name, steps = self.sampler.name, self.sampler.steps
        if name == "adaptive":
            tolerance = self.sampler.tolerance
            actions, calls = adaptive_flow(estimator, noise, tolerance=tolerance, steps=steps)
            self.row_calls = calls
            return actions
        if name == "ddpm":
            return ddpm(estimator, self.process, noise, self._rng, steps)
        if name == "dpm_solver":
            return dpm_solver(estimator, self.process, noise, steps)
        if name == "heun":
            return heun(estimator, self.process, noise, steps)
        return ddim(estimator, self.process, noise, steps)

    def _stream(
        self,
        estimator: Estimator,
        process: Rolling,
        shape: tuple[int, int, int],
        executed: int,
        bound: tuple[Float, Float] | None,
    ) -> Float:
        if self._plan is None:
            first = np.array(self.config.first_action)
            constant = self.config.action.normalise(first)
            self._plan = RollingPlan(
                process, shape, self.sampler.steps, self.sampler.primer, constant, self._rng
            )
        else:
            self._plan.advance(executed)
        if bound is not None:
            self._plan.pin(bound[0], bound[1][:, 0] >= 1.0)
        return self._plan.settle(estimator)


def check_window(what: str, window: Window, model: ChunkModel) -> None:
    """Check that a window is what a model was trained on.

    Raises:
        InputError: a size is wrong, a camera is missing, or a value is not finite.
    """
    spec = model.spec
    wanted = (spec.observation_horizon, len(spec.state_names))
    if window.state.ndim != 3 or window.state.shape[1:] != wanted:
        raise InputError(
            f"{what}: expected states of shape (B, {wanted[0]}, {wanted[1]}), got "
            f"{window.state.shape}; give the last {wanted[0]} observations of its state_names"
        )
    finite = np.isfinite(window.state)
    if not finite.all():
        column = int(np.argwhere(~finite)[0][2])
        raise InputError(
            f"{what}: expected finite states, got {window.state[~finite][0]} in "
            f"{spec.state_names[column]!r}; check the sensor or the estimator"
        )
    for camera in spec.cameras:
        _check_image(what, window, camera.name, (camera.height, camera.width), wanted[0])


def _check_image(what: str, window: Window, name: str, size: Sequence[int], horizon: int) -> None:
    if name not in window.images:
        raise InputError(
            f"{what}: expected images of the camera {name!r}, got cameras "
            f"{sorted(window.images)}; connect it or use a model without it"
        )
    image = window.images[name]
    wanted = (len(window.state), horizon, *size, 3)
    if image.shape != wanted or image.dtype != np.uint8:
        raise InputError(
            f"{what}: expected uint8 images of shape {wanted} of the camera {name!r}, got "
            f"{image.dtype} of shape {image.shape}; resize them or use another camera"
        )
