"""How Mochi-1 and Pusa V0.5 are published: files, names, tables and settings of their networks."""

import dataclasses

from pusa_jax.convert import t5
from pusa_jax.convert.foreign import MODEL_INDEX, ForeignFamily, ForeignNetwork, LoRANames
from pusa_jax.convert.mochi import dit, published, vae
from pusa_jax.models.mochi.config import DiTConfig
from pusa_jax.models.t5 import TextConfig

STREAMS = tuple(
    (f"transformer_blocks.{block}.attn1.{name}", *genmo, f"{path}/{stream}/{layer}")
    for block, path in (("{last}", "last"), ("{i}", "blocks"))
    for s, stream, diffusers in (
        ("x", "visual", ("to_q", "to_k", "to_v", "to_out.0")),
        ("y", "text", ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
    )
    for layer, name in zip("qkvo", diffusers, strict=True)
    for genmo in [(f"blocks.{block}.attn.proj_{s}",) if layer == "o" else ()]
    if (path, s, layer) != ("last", "y", "o")
)
"""Attention layers by Diffusers' and genmo's names, and their paths here; the last block first,
whose number would pass for that of any other."""

FUSED = tuple(
    (f"blocks.{block}.attn.qkv_{s}", tuple(f"{path}/{stream}/{layer}" for layer in "qkv"))
    for block, path in (("{last}", "last"), ("{i}", "blocks"))
    for s, stream in (("x", "visual"), ("y", "text"))
)
"""Layers that are one in genmo's files."""


def padded_for(config: TextConfig, denoiser: DiTConfig) -> TextConfig:
    """The text encoder pads to the length that the DiT wants; its own files do not say which."""
    return dataclasses.replace(config, text_len=denoiser.text_len)


MOCHI = ForeignFamily(
    networks={
        "dit": ForeignNetwork(
            layout_of=dit.layout_of,
            config_from_source=dit.config_from_source,
            rules={"original": dit.original_rules, "diffusers": dit.diffusers_rules},
            files={
                "original": "dit.safetensors",
                "diffusers": "transformer/diffusion_pytorch_model.safetensors",
            },
            classes=("MochiTransformer3DModel",),
            settings={"diffusers": published.diffusers_dit},
            tuned="pusa_v0_dit.safetensors",
        ),
        "vae": ForeignNetwork(
            layout_of=vae.layout_of,
            config_from_source=vae.config_from_source,
            rules={"original": vae.original_rules, "diffusers": vae.diffusers_rules},
            files={
                "original": "{piece}.safetensors",
                "diffusers": "vae/diffusion_pytorch_model.safetensors",
            },
            classes=("AutoencoderKLMochi",),
            settings={"diffusers": published.diffusers_vae},
            pieces={"encoder": "layers.0.weight", "decoder": "blocks.0.0.weight"},
        ),
        "text_encoder": ForeignNetwork(
            layout_of=t5.t5_layout,
            config_from_source=t5.config_from_source,
            rules={"original": t5.transformers_rules, "diffusers": t5.transformers_rules},
            files={
                "original": "text_encoder/model.safetensors",
                "diffusers": "text_encoder/model.safetensors",
            },
            classes=("T5EncoderModel", "T5ForConditionalGeneration"),
            settings={
                "original": published.transformers_text,
                "diffusers": published.transformers_text,
            },
            ignored=t5.TRANSFORMERS_IGNORED,
            beside_dit=padded_for,
        ),
    },
    tokenizer={"original": "tokenizer", "diffusers": "tokenizer"},
    shard_bytes={"original": 50_000_000_000, "diffusers": 10_000_000_000},
    extras={
        "original": {},
        "diffusers": {
            "scheduler/scheduler_config.json": published.SCHEDULER,
            MODEL_INDEX: published.MODEL_INDEX,
        },
    },
    claims=lambda index: index.get("_class_name") == published.MODEL_INDEX["_class_name"],
    lora=LoRANames(
        model="the Mochi DiT",
        layers=STREAMS,
        convolutions={},
        ignored={},
        fused=FUSED,
        depth=DiTConfig().num_layers,
        prefix="transformer",
    ),
    base="genmo/mochi-1-preview",
    in_both_layouts=True,
)
"""`genmo/mochi-1-preview`, and the DiT of `RaphaelLiu/Pusa-V0.5`."""
