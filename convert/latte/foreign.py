"""How FVDM's networks are published: files, names, tables and settings."""

from pusa_jax.convert.foreign import ForeignFamily, ForeignNetwork, LoRANames
from pusa_jax.convert.latte import dit, published, vae

LATTE = ForeignFamily(
    networks={
        "dit": ForeignNetwork(
            layout_of=dit.layout_of,
            config_from_source=dit.config_from_source,
            rules={"original": dit.original_rules},
            files={"original": "fvdm.pt"},
            classes=("LatteVIDEO",),
            settings={"original": published.original_dit},
            entry="ema",
        ),
        "vae": ForeignNetwork(
            layout_of=vae.layout_of,
            config_from_source=vae.config_from_source,
            rules={"original": vae.diffusers_rules, "diffusers": vae.diffusers_rules},
            files={
                "original": "vae/diffusion_pytorch_model.safetensors",
                "diffusers": "vae/diffusion_pytorch_model.safetensors",
            },
            classes=("AutoencoderKL",),
            settings={"original": published.diffusers_vae, "diffusers": published.diffusers_vae},
        ),
    },
    tokenizer={},
    shard_bytes={"original": 10_000_000_000, "diffusers": 10_000_000_000},
    extras={"original": {}, "diffusers": {}},
    claims=lambda index: False,
    lora=LoRANames(
        model="LatteVIDEO",
        layers=tuple(
            (f"{name}.attn.{layer}", f"{path}/{part}")
            for name, _, path in dit.BLOCKS
            for layer, part in (("q", "q"), ("k", "k"), ("v", "v"), ("proj", "o"))
        ),
        convolutions={},
        ignored={},
        fused=tuple(
            (f"{name}.attn.qkv", tuple(f"{path}/{part}" for part in "qkv"))
            for name, _, path in dit.BLOCKS
        ),
        prefix="transformer",
    ),
    base="maxin-cn/Latte",
    beside=("vae",),
)
"""Checkpoints of FVDM and of `maxin-cn/Latte` without text, beside the autoencoder of Stable
Diffusion 1."""
