"""How Wan is published: files, names, tables and settings of its networks and LoRA files."""

import dataclasses

from pusa_jax.convert import t5
from pusa_jax.convert.foreign import (
    BOUNDARY,
    MODEL_INDEX,
    ForeignFamily,
    ForeignNetwork,
    Layout,
    LoRANames,
)
from pusa_jax.convert.tables import TensorSource
from pusa_jax.convert.wan import dit, published, vae
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig

HIGH, LOW = (rf"(?i)(.*{word}[-_ ]?noise.*|{folder}/[^/]*)" for word, folder in (
    ("high", "transformer"), ("low", "transformer_2")
))  # fmt: skip
"""Places of the two experts of Wan2.2, whose tensors are those of Wan2.1."""

HIGH_LORA, LOW_LORA = (
    rf"(?i)(?<![a-z]){word}(?=[-_ .]?(noise|lora|expert|model)|[-_ .]+(14b|v?\d)|[-_ .]*$)"
    for word in ("high", "low")
)
"""Names of LoRA files for the two experts."""

ALONE = r"(?i)(?!.*(high|low)[-_ ]?noise)(?!transformer_2/).*"
"""Places of a denoiser that is no expert."""

TI2V_CHANNELS = 48
"""Channels of the latents of TI2V."""


def dit_layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a denoiser of Wan2.1 or an expert of Wan2.2 uses."""
    return None if _is_ti2v(source) else dit.layout_of(source)


def ti2v_layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a denoiser uses that takes the latents of the VAE of Wan2.2."""
    return dit.layout_of(source) if _is_ti2v(source) else None


def _is_ti2v(source: TensorSource) -> bool:
    found = source.tensors.get("patch_embedding.weight")
    return found is not None and found.shape[1:2] == (TI2V_CHANNELS,)


def padded_for(config: TextConfig, denoiser: DiTConfig) -> TextConfig:
    """The text encoder pads to the length that the DiT wants; its own files do not say which."""
    return dataclasses.replace(config, text_len=denoiser.text_len)


WAN21 = ForeignFamily(
    networks={
        "dit": ForeignNetwork(
            layout_of=dit_layout_of,
            config_from_source=dit.config_from_source,
            rules={"original": dit.original_rules, "diffusers": dit.diffusers_rules},
            files={
                "original": "diffusion_pytorch_model.safetensors",
                "diffusers": "transformer/diffusion_pytorch_model.safetensors",
            },
            classes=("WanModel", "WanTransformer3DModel"),
            settings={"original": published.original_dit, "diffusers": published.diffusers_dit},
            place=ALONE,
            lora_mark=LOW_LORA,  # Pusa's scripts merge that one of Wan2.2 into Wan2.1
        ),
        "vae": ForeignNetwork(
            layout_of=vae.wan21_layout_of,
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
            MODEL_INDEX: published.MODEL_INDEX,
        },
    },
    claims=lambda index: False,
    lora=LoRANames(
        model="the Wan DiT",
        layers=(*dit.LINEARS, ("patch_embedding", "patch_embedding")),
        convolutions={"patch_embedding": dit.patches(DiTConfig.patch_size)},
        # The reference loaders skip these too.
        ignored={
            r".*(k_img|v_img|img_emb|add_[kv]_proj|image_embedder).*": (
                "a layer of image-to-video models"
            ),
        },
        tensors=tuple(r for i in (0, 1) for r in dit.rules_of(DiTConfig.patch_size, i)),
        inputs={36: "an image-to-video model", 32: "a control model", 52: "a control model"},
    ),
    base="Wan2.1-T2V",
)
"""`Wan-AI/Wan2.1-T2V-*`, and `-Diffusers`."""


def _expert(noise: str, diffusers: str, place: str, lora_mark: str) -> ForeignNetwork:
    """The DiT of Wan2.1 in other folders."""
    file = "diffusion_pytorch_model.safetensors"
    return dataclasses.replace(
        WAN21.networks["dit"],
        files={"original": f"{noise}_model/{file}", "diffusers": f"{diffusers}/{file}"},
        place=place,
        lora_mark=lora_mark,
        lora_file=f"{noise}_pusa.safetensors",
    )


WAN22 = dataclasses.replace(
    WAN21,
    networks={
        "dit": _expert("high_noise", "transformer", HIGH, HIGH_LORA),
        "dit_low": _expert("low_noise", "transformer_2", LOW, LOW_LORA),
        "vae": WAN21.networks["vae"],
        "text_encoder": WAN21.networks["text_encoder"],
    },
    extras={
        "original": {},
        "diffusers": {
            "scheduler/scheduler_config.json": published.SCHEDULER,
            MODEL_INDEX: published.MODEL_INDEX | published.TWO_EXPERTS,
        },
    },
    claims=lambda index: index.get(BOUNDARY) is not None or any(index.get("transformer_2") or ()),
    base="Wan2.2-T2V-A14B",
)
"""`Wan-AI/Wan2.2-T2V-A14B`, and `-Diffusers`, whose `transformer` is the one for high noise."""

WAN22_TI2V = dataclasses.replace(
    WAN21,
    networks={
        "dit": dataclasses.replace(
            WAN21.networks["dit"],
            layout_of=ti2v_layout_of,
            settings={"original": published.original_ti2v, "diffusers": published.diffusers_dit},
        ),
        "vae": dataclasses.replace(
            WAN21.networks["vae"],
            layout_of=vae.wan22_layout_of,
            files={**WAN21.networks["vae"].files, "original": "Wan2.2_VAE.pth"},
        ),
        "text_encoder": WAN21.networks["text_encoder"],
    },
    extras={
        "original": {},
        "diffusers": {
            "scheduler/scheduler_config.json": published.SCHEDULER | {"flow_shift": 5.0},
            MODEL_INDEX: published.MODEL_INDEX | published.EVERY_TOKEN,
        },
    },
    claims=lambda index: bool(index.get("expand_timesteps")),
    base="Wan2.2-TI2V-5B",
)
"""`Wan-AI/Wan2.2-TI2V-5B`, and `-Diffusers`."""
