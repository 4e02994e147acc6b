"""What LeRobot itself does, for tests: small random checkpoints, and answers of select_action.

Runs in the interpreter that has LeRobot::

    python lerobot_reference.py write KIND FOLDER         # act, diffusion, vqbet, smolvla
    python lerobot_reference.py answer FOLDER IN.npz OUT.npz

IN.npz holds ``state`` (ticks, D) float32, images (ticks, H, W, 3) uint8 by feature name, ``seed``
and ``task``; OUT.npz the ``actions`` (ticks, A) of a closed loop that calls LeRobot at each tick.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import torch

torch.set_num_threads(1)
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):  # those of a torchvision that was built for another torch
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lerobot.configs.policies import PreTrainedConfig  # noqa: E402
from lerobot.configs.types import FeatureType, PolicyFeature  # noqa: E402
from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # noqa: E402
from lerobot.policies.utils import prepare_observation_for_inference  # noqa: E402

JOINTS = 6
CAMERAS = {"act": ("front", "wrist"), "vqbet": ("front",), "smolvla": ("front", "wrist")}
SIZE = (48, 64)


def features(kind: str) -> dict[str, dict[str, PolicyFeature]]:
    """Inputs and outputs of a checkpoint."""
    inputs = {"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(JOINTS,))}
    for camera in CAMERAS.get(kind, ("front",)):
        inputs[f"observation.images.{camera}"] = PolicyFeature(
            type=FeatureType.VISUAL, shape=(3, *SIZE)
        )
    outputs = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(JOINTS,))}
    return {"input_features": inputs, "output_features": outputs}


def configuration(kind: str, folder: Path) -> PreTrainedConfig:
    """A small model of a kind."""
    shared = features(kind)
    if kind == "act":
        from lerobot.policies.act.configuration_act import ACTConfig

        return ACTConfig(
            **shared,
            chunk_size=20,
            n_action_steps=8,
            dim_model=64,
            n_heads=4,
            dim_feedforward=128,
            n_encoder_layers=2,
            n_vae_encoder_layers=1,
            latent_dim=8,
            pretrained_backbone_weights=None,
        )
    if kind == "diffusion":
        from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

        return DiffusionConfig(
            **shared,
            horizon=16,
            n_obs_steps=2,
            n_action_steps=6,
            down_dims=(32, 64),
            crop_shape=(40, 56),
            num_train_timesteps=20,
            num_inference_steps=5,
            noise_scheduler_type="DDPM",
        )
    if kind == "vqbet":
        from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

        return VQBeTConfig(
            **shared,
            n_obs_steps=3,
            n_action_pred_token=3,
            action_chunk_size=5,
            crop_shape=(40, 56),
            vqvae_embedding_dim=32,
            vqvae_enc_hidden_dim=32,
            gpt_input_dim=64,
            gpt_output_dim=64,
            gpt_hidden_dim=64,
            gpt_n_layer=2,
            gpt_n_head=4,
        )
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    return SmolVLAConfig(
        **shared,
        chunk_size=10,
        n_action_steps=6,
        resize_imgs_with_padding=(64, 64),
        num_steps=4,
        num_vlm_layers=2,
        vlm_model_name=str(write_vlm(folder / "vlm")),
        load_vlm_weights=False,
        tokenizer_max_length=16,
    )


def write_vlm(folder: Path) -> Path:
    """Configuration, tokenizer and image processor of a tiny vision-language model, no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor

    special = ["<pad>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end>"]
    words = [*special, "pick", "place", "the", "red", "green", "cube", "up", "\n"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=special[2:],
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end>",
        },
    )
    tokenizer.save_pretrained(folder)
    SmolVLMImageProcessor().save_pretrained(folder)
    text = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": len(words),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 5,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=2, scale_factor=2, pad_token_id=0
    ).save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "SmolVLMProcessor", "image_seq_len": 4})
    )
    return folder


def statistics(kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """Normalisation such as a dataset in degrees would give."""
    rng = np.random.default_rng(5)
    out = {}
    for key, feature in {k: v for d in features(kind).values() for k, v in d.items()}.items():
        shape = (3, 1, 1) if feature.type is FeatureType.VISUAL else feature.shape
        scale = 1.0 if feature.type is FeatureType.VISUAL else 60.0
        mean = scale * rng.uniform(0.2, 0.6, shape)
        spread = scale * rng.uniform(0.1, 0.3, shape)
        values = {"mean": mean, "std": spread, "min": mean - 2 * spread, "max": mean + 2 * spread}
        out[key] = {name: torch.tensor(x, dtype=torch.float32) for name, x in values.items()}
    return out


def write(kind: str, folder: Path) -> None:
    """Save a random checkpoint as LeRobot's training does."""
    torch.manual_seed(3)
    config = configuration(kind, folder)
    config.device = "cpu"
    policy = get_policy_class(kind)(config)
    if kind == "vqbet":  # an untrained VQ-VAE warns at each call
        policy.vqbet.action_head.vqvae_model.discretized.fill_(True)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=statistics(kind)):
        processor.save_pretrained(folder)


def answer(folder: Path, given: Path, out: Path) -> None:
    """Closed loop of LeRobot's own ``select_action``."""
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    with np.load(given, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    torch.manual_seed(int(arrays.pop("seed")))
    task = str(arrays.pop("task"))
    policy.reset()
    actions = []
    for tick in range(len(arrays["state"])):
        names = {"state": "observation.state"}
        frame = {names.get(name, name): x[tick].copy() for name, x in arrays.items()}
        batch = prepare_observation_for_inference(frame, torch.device("cpu"), task)
        actions.append(after(policy.select_action(before(batch)))[0].numpy())
    np.savez(out, actions=np.stack(actions))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        answer(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
