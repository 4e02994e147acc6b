"""A trained policy that reads instructions, as a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from policies.diffusion.config import SamplerConfig
from policies.diffusion.interface import Prefix, Window
from policies.diffusion.model import GenerativeModel
from policies.diffusion.samplers import Estimator
from policies.errors import InputError
from policies.interface import Float
from policies.processors import Float32
from policies.vla.backend import VlaBackend
from policies.vla.config import VlaConfig
from policies.vla.instructions import Instructions
from policies.vla.windows import anchor_values, anchors


class VlaModel(GenerativeModel):
    """Implements :class:`policies.diffusion.interface.ChunkModel`.

    A window that tells nothing is answered as by a robot that was told nothing, which is what a
    trial answer is; who drives a robot makes sure that there is an instruction.

    Args:
        config: of the policy.
        backend: its networks.
        instructions: those that it knows.
        sampler: how it is run; None as the checkpoint says.

    Attributes:
        vla: all of config.json.
    """

    def __init__(
        self,
        config: VlaConfig,
        backend: VlaBackend,
        instructions: Instructions,
        sampler: SamplerConfig | None = None,
    ) -> None:
        super().__init__(config.model, backend, sampler)
        self.vla = config
        self._networks, self._instructions = backend, instructions
        self._anchors = anchors(self.spec.state_names, self.spec.action_names)

    def _sample(
        self,
        others: Sequence[tuple[float, Estimator]],
        window: Window,
        executed: int,
        prefix: Prefix | None,
    ) -> Float:
        """See :class:`policies.diffusion.model.GenerativeModel`; networks answer relative plans."""
        if others or self.guides:
            raise InputError(
                f"{self.spec_error}: expected a model of absolute plans, to steer or compose it, "
                "got one that reads instructions; say in words what it shall do"
            )
        here = anchor_values(window.state[:, -1:], self._anchors)
        if prefix is not None and prefix.actions.shape[::2] == here.shape[::2]:
            prefix = replace(prefix, actions=prefix.actions - here)
        return super()._sample((), window, executed, prefix) + here

    def condition(self, window: Window) -> Float32:
        """What the encoder makes of checked windows, (B, C).

        Raises:
            InputError: an instruction for some of the runs only, or one that cannot be encoded.
        """
        state = self.config.state.normalise(window.state).astype(np.float32)
        images = [window.images[camera.name] for camera in self.spec.cameras]
        told = window.instructions
        if not told:
            return self._networks.encode(state, images)
        if len(told) != len(state):
            raise InputError(
                f"{self.spec_error}: expected an instruction for each of {len(state)} runs, got "
                f"{len(told)}; give one each, or none"
            )
        return self._networks.encode(state, images, self._instructions.rows(told))
