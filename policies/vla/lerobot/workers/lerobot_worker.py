"""LeRobot's policies as a worker; tested with LeRobot 0.4.4.

Loads a checkpoint folder with LeRobot's own classes and answers windows of observations with chunks
of actions, both through the checkpoint's processors: normalisation lives there, not in the model.
Nothing is fetched from a network, nothing is unpickled.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from .wire import Arrays, Refused, forget_own_folder, serve

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
forget_own_folder()

import numpy as np  # noqa: E402
import torch  # noqa: E402

_OPERATORS: list[Any] = []  # torch forgets a library that nobody holds


def _import_torchvision() -> None:
    """Import torchvision, also one whose compiled operators are of another build of torch.

    Its Python registers details of two operators that then do not exist. They are declared here;
    no policy calls them.
    """
    try:
        import torchvision  # type: ignore[import-not-found]
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declare: Any = torch.library.Library
        library = declare("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(library)
        import torchvision  # noqa: F401


_import_torchvision()
import lerobot  # type: ignore[import-not-found]  # noqa: E402
from lerobot.configs.policies import PreTrainedConfig  # type: ignore[import-not-found]  # noqa: E402
from lerobot.policies.factory import (  # type: ignore[import-not-found]  # noqa: E402
    get_policy_class,
    make_pre_post_processors,
)

KINDS = ("act", "diffusion", "vqbet", "smolvla")
_STATE, _ENVIRONMENT, _ACTION = "observation.state", "observation.environment_state", "action"


def _refuse_pickles(*_: object, **__: object) -> None:
    raise Refused(
        "expected weights in safetensors, got a file that would have to be unpickled; "
        "save the checkpoint again with a LeRobot that writes safetensors"
    )


class LeRobotPolicy:
    """Implements :class:`.wire.Model`."""

    engine = "lerobot"
    version = f"{lerobot.__version__}, torch {torch.__version__}"

    def __init__(self) -> None:
        torch.load = _refuse_pickles
        self._policy: Any = None

    def answer(self, header: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """Load a checkpoint, start over, or make chunks."""
        if header["op"] == "load":
            return self._load(header), {}
        if self._policy is None:
            raise Refused("expected a checkpoint to be loaded first")
        if header["op"] == "reset":
            torch.manual_seed(header["seed"])
            self._policy.reset()
            return {}, {}
        start = time.perf_counter()
        with torch.no_grad():
            actions = self._sample(arrays, header["tasks"])
        return {"seconds": time.perf_counter() - start}, {"actions": actions}

    def _load(self, header: dict[str, Any]) -> dict[str, Any]:
        """Build the policy and its processors.

        Args:
            header: ``folder`` of the checkpoint, ``vlm`` (folder of configuration and tokenizer of
                a vision-language model, or None), ``device`` (``cpu``, ``cuda``, or ``auto`` for a
                GPU if there is one), ``threads`` (None for half of the cores).
        """
        half = max(1, len(os.sched_getaffinity(0)) // 2)
        torch.set_num_threads(header["threads"] or half)
        folder, device = header["folder"], header["device"]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device != "cpu" and not torch.cuda.is_available():
            raise Refused(f"expected a GPU for the device {device!r}, got none; use cpu")
        try:
            config = PreTrainedConfig.from_pretrained(folder)
            self._adapt(config, device, header["vlm"])
            policy = get_policy_class(config.type).from_pretrained(
                folder, config=config, strict=True
            )
            self._load_processors(config, header)
        except Refused:
            raise
        except Exception as error:  # of LeRobot, draccus, safetensors or torch
            raise Refused(
                f"{folder}: expected settings, weights and processors that fit together, got "
                f"{type(error).__name__}: {_first_lines(error)}; export the checkpoint again"
            ) from error
        self._policy, self._device = policy, torch.device(device)
        self._keys = list(config.image_features)
        environment = config.env_state_feature
        self._state = config.robot_state_feature.shape[0] if config.robot_state_feature else 0
        return {
            "kind": config.type,
            "device": device,
            "state": self._state + (environment.shape[0] if environment else 0),
            "actions": config.action_feature.shape[0],
            "cameras": self._keys,
            "parameters": sum(p.numel() for p in policy.parameters()),
        }

    def _load_processors(self, config: Any, header: dict[str, Any]) -> None:
        overrides: dict[str, Any] = {"device_processor": {"device": config.device}}
        if header["vlm"]:
            overrides["tokenizer_processor"] = {"tokenizer_name": header["vlm"]}
        self._before, self._after = make_pre_post_processors(
            config, pretrained_path=header["folder"], preprocessor_overrides=overrides
        )

    def _adapt(self, config: Any, device: str, vlm: str | None) -> None:
        if config.type not in KINDS:
            raise Refused(f"expected a policy of type {list(KINDS)}, got {config.type!r}")
        config.device = device
        if hasattr(config, "pretrained_backbone_weights"):  # the checkpoint's own come instead
            config.pretrained_backbone_weights = None
        if config.type == "diffusion":  # the whole plan, not only what is carried out of it
            config.n_action_steps = config.horizon - config.n_obs_steps + 1
        if config.type == "smolvla":
            config.vlm_model_name, config.load_vlm_weights = vlm, False

    def _sample(self, arrays: Arrays, tasks: list[str]) -> Any:
        """Chunks for B windows.

        Args:
            arrays: ``state`` (B, To, D) float32, and per camera (B, To, H, W, 3) uint8.
            tasks: what each of the runs is told to do, B texts.

        Returns:
            Actions (B, T, A) float32, raw units of the checkpoint.
        """
        frames = [self._frame(arrays, tasks, t) for t in range(arrays["state"].shape[1])]
        policy = self._policy
        if policy.config.type in ("act", "smolvla"):  # they see the newest observation only
            policy.reset()
            chunk = policy.predict_action_chunk(self._before(frames[-1]))
        else:
            chunk = self._with_history(frames)
        return self._after(chunk).float().cpu().numpy()

    def _with_history(self, frames: list[dict[str, Any]]) -> Any:
        """Let ``select_action`` see the window, and take the chunk that it puts into its queue."""
        policy = self._policy
        policy.reset()
        queue = policy._queues[_ACTION]
        for frame in frames[:-1]:
            queue.append(None)  # with an action left, it only remembers the observation
            policy.select_action(self._before(frame))
        first = policy.select_action(self._before(frames[-1]))
        return torch.stack([first, *policy._queues[_ACTION]], dim=1)

    def _frame(self, arrays: Arrays, tasks: list[str], t: int) -> dict[str, Any]:
        """One observation of each run, as LeRobot's own loop gives it to the processors."""
        rows = torch.from_numpy(np.ascontiguousarray(arrays["state"][:, t])).to(self._device)
        frame: dict[str, Any] = {"task": tasks}
        if self._state:
            frame[_STATE] = rows[:, : self._state]
        if self._state < rows.shape[1]:
            frame[_ENVIRONMENT] = rows[:, self._state :]
        for key in self._keys:
            image = torch.from_numpy(np.ascontiguousarray(arrays[key][:, t])).to(self._device)
            frame[key] = (image.type(torch.float32) / 255).permute(0, 3, 1, 2).contiguous()
        return frame


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else "no reason"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(f"{Path(__file__).name}: started by realign, not by hand", file=sys.stderr)
        raise SystemExit(2)
    serve(LeRobotPolicy)
