"""How Wan2.1 is published: files, names, tables and settings of its networks and LoRA files."""

import dataclasses
from pathlib import Path

from pusa_jax.convert import t5
from pusa_jax.convert.foreign import ForeignFamily, ForeignNetwork, LoRANames
from pusa_jax.convert.wan import dit, published, vae
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig

TWO_EXPERTS = ("high_noise_model", "low_noise_model", "transformer_2")
"""Subfolders that only Wan2.2 pipelines with two DiTs have."""


def two_experts(folder: Path) -> str | None:
    """Says so if a folder is a Wan2.2 pipeline, whose networks look like those of Wan2.1."""
    found = [name for name in TWO_EXPERTS if (folder / name).is_dir()]
    if not found:
        return None
    return (
        f"a Wan2.2 pipeline with two DiTs ({', '.join(found)}), which is not supported; use a "
        "Wan2.1 text-to-video model"
    )


def padded_for(config: TextConfig, denoiser: DiTConfig) -> TextConfig:
    """The text encoder pads to the length that the DiT wants; its own files do not say which."""
    return dataclasses.replace(config, text_len=denoiser.text_len)


WAN21 = ForeignFamily(
    networks={
        "dit": ForeignNetwork(
            layout_of=dit.layout_of,
            config_from_source=dit.config_from_source,
            rules={"original": dit.original_rules, "diffusers": dit.diffusers_rules},
            files={
                "original": "diffusion_pytorch_model.safetensors",
                "diffusers": "transformer/diffusion_pytorch_model.safetensors",
            },
            classes=("WanModel", "WanTransformer3DModel"),
            settings={"original": published.original_dit, "diffusers": published.diffusers_dit},
        ),
        "vae": ForeignNetwork(
            layout_of=vae.layout_of,
            config_from_source=vae.config_from_source,
            rules={"original": vae.original_rules, "diffusers": vae.diffusers_rules},
            files={
                "original": "Wan2.1_VAE.pth",
                "diffusers": "vae/diffusion_pytorch_model.safetensors",
            },
            classes=("AutoencoderKLWan",),
            settings={"diffusers": published.diffusers_vae},
        ),
        "text_encoder": ForeignNetwork(
            layout_of=t5.umt5_layout,
            config_from_source=t5.config_from_source,
            rules={"original": t5.original_rules, "diffusers": t5.transformers_rules},
            files={
                "original": "models_t5_umt5-xxl-enc-bf16.pth",
                "diffusers": "text_encoder/model.safetensors",
            },
            classes=("UMT5EncoderModel",),
            settings={"diffusers": published.transformers_text},
            ignored=t5.TRANSFORMERS_IGNORED,
            beside_dit=padded_for,
        ),
    },
    tokenizer={"original": "google/umt5-xxl", "diffusers": "tokenizer"},
    shard_bytes={"original": 10_000_000_000, "diffusers": 5_000_000_000},
    extras={
        "original": {},
        "diffusers": {
            "scheduler/scheduler_config.json": published.SCHEDULER,
            "model_index.json": published.MODEL_INDEX,
        },
    },
    unsupported=two_experts,
    lora=LoRANames(
        model="the Wan DiT",
        layers=(*dit.LINEARS, ("patch_embedding", "patch_embedding")),
        convolutions={"patch_embedding": dit.patches(DiTConfig.patch_size)},
        # The reference loaders skip these too.
        ignored={
            r".*\.(diff|diff_b|diff_m)": "a full difference of a weight, bias or modulation",
            r".*(k_img|v_img|img_emb|add_[kv]_proj|image_embedder).*": (
                "a layer of image-to-video models"
            ),
        },
    ),
    base="Wan2.1-T2V",
)
"""`Wan-AI/Wan2.1-T2V-*`, and `-Diffusers`."""
