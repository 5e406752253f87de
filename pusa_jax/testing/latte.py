"""A tiny FVDM in its published layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.latte import dit, published, vae
from pusa_jax.convert.latte.foreign import LATTE
from pusa_jax.convert.tables import LeafTensors
from pusa_jax.models.latte.config import DiTConfig, VAEConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.vae import FrameVAE
from pusa_jax.testing.compare import random_module
from pusa_jax.weights.leaves import leaves_of

DIT = DiTConfig(
    dim=48, num_heads=4, num_layers=4, num_classes=3, num_frames=8, grid=(4, 4), freq_dim=32
)
VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


def write_latte(
    folder: Path, seed: int = 0, config: DiTConfig = DIT, autoencoder: VAEConfig = VAE
) -> None:
    """Writes a DiT as FVDM's trainer does, and an autoencoder as Diffusers does beside it.

    Args:
      folder: created; files in it are replaced.
      seed: of the random weights.
      config: of the DiT.
      autoencoder: configuration of the autoencoder.
    """
    module = random_module(lambda: LatteVideo(config, rngs=nnx.Rngs(0)), seed)
    write_dit(folder, leaves_of(module), config)
    module = random_module(lambda: FrameVAE(autoencoder, rngs=nnx.Rngs(0)), seed + 1)
    write_vae(folder, leaves_of(module), autoencoder)


def write_dit(folder: Path, leaves: Mapping[str, Any], config: DiTConfig) -> None:
    """Writes the leaves of a DiT as FVDM's trainer does."""
    path = _place(folder, "dit")
    tensors = LeafTensors(leaves, dit.original_rules(config))
    write_torch_zip(path, tensors, LATTE.networks["dit"].entry)
    _settings(path, published.original_dit(config))


def write_vae(folder: Path, leaves: Mapping[str, Any], config: VAEConfig) -> None:
    """Writes the leaves of an autoencoder as Diffusers does."""
    path = _place(folder, "vae")
    write_safetensors(path, LeafTensors(leaves, vae.diffusers_rules(config)))
    _settings(path, published.diffusers_vae(config))


def _place(folder: Path, name: Literal["dit", "vae"]) -> Path:
    path = folder / LATTE.networks[name].files["original"]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _settings(path: Path, content: Mapping[str, Any]) -> None:
    path.with_name("config.json").write_text(json.dumps(content, indent=2) + "\n")
