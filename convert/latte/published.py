"""The config.json files beside FVDM's networks."""

from typing import Any

from pusa_jax.models.latte.config import DiTConfig, VAEConfig

DIFFUSERS_VERSION = "0.18.0"
"""A release that names the layers of attention as they are written here."""


def original_dit(config: DiTConfig) -> dict[str, Any]:
    """config.json beside a DiT: what FVDM's own sampling configurations (.yaml) say of it."""
    size = [n * p for n, p in zip(config.grid, config.patch_size[1:], strict=True)]
    return {
        "_class_name": "LatteVIDEO",
        "depth": config.num_layers,
        "extras": 2 if config.num_classes else 1,
        "hidden_size": config.dim,
        "in_channels": config.in_dim,
        "input_size": size[0] if size[0] == size[1] else size,
        "learn_sigma": True,
        "num_classes": config.num_classes,
        "num_frames": config.num_frames,
        "num_heads": config.num_heads,
        "patch_size": config.patch_size[1],
    }


def diffusers_vae(config: VAEConfig) -> dict[str, Any]:
    """vae/config.json."""
    sizes = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * sizes,
        "in_channels": 3,
        "latent_channels": config.z_dim,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": 3,
        "sample_size": 256,
        "scaling_factor": config.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * sizes,
    }
