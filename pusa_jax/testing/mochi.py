"""A tiny random Mochi in its published layouts, for tests."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from pusa_jax.convert import t5
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.mochi import dit, published, vae
from pusa_jax.convert.tables import Rule, dump
from pusa_jax.models.mochi.config import DiTConfig, VAEConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.vae import MochiVAE
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.testing.compare import random_module
from pusa_jax.testing.published import WORDS
from pusa_jax.testing.tokenizer import save_tiny_tokenizer
from pusa_jax.weights.leaves import leaves_of

DIT = DiTConfig(
    dim=48, context_dim=32, ffn_dim=64, context_ffn_dim=48, num_heads=4, num_layers=3, text_dim=32,
    freq_dim=32,
)  # fmt: skip
VAE = VAEConfig(
    encoder_dims=(32, 32, 32, 32), decoder_dims=(32, 32, 32, 32), num_res_blocks=(1, 1, 1, 1, 1)
)
TEXT = TextConfig(dim=32, dim_attn=32, dim_ffn=64, num_heads=4, num_layers=2, shared_positions=True)


def write_mochi(folder: Path, layout: Layout = "original", seed: int = 0) -> None:
    """Writes DiT, VAE, text encoder and tokenizer as they are published.

    Args:
      folder: created; files in it are replaced.
      layout: genmo's files beside a text encoder as transformers keeps it, or Diffusers.
      seed: of the random weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab = save_tiny_tokenizer(folder / "tokenizer", WORDS.split())
    text = dataclasses.replace(TEXT, vocab=vocab)
    networks = (
        (random_module(lambda: MochiDiT(DIT, rngs=nnx.Rngs(0)), seed), dit, DIT),
        (random_module(lambda: MochiVAE(VAE, rngs=nnx.Rngs(0)), seed + 1), vae, VAE),
    )
    encoder = random_module(lambda: T5Encoder(text, rngs=nnx.Rngs(0)), seed + 2)
    place = folder / "text_encoder" / "model.safetensors"
    _save(place, encoder, t5.transformers_rules(text))
    _settings(place, published.transformers_text(text))
    if layout == "original":
        (denoiser, tables, config), (autoencoder, vae_tables, coder) = networks
        _save(folder / "dit.safetensors", denoiser, tables.original_rules(config))
        for piece in ("encoder", "decoder"):
            file = folder / f"{piece}.safetensors"
            _save(file, autoencoder, vae_tables.original_rules(coder), f"{piece}.")
        return
    weights = "diffusion_pytorch_model.safetensors"
    settings = (published.diffusers_dit(DIT), published.diffusers_vae(VAE))
    for name, (module, tables, config), content in zip(
        ("transformer", "vae"), networks, settings, strict=True
    ):
        _save(folder / name / weights, module, tables.diffusers_rules(config))
        _settings(folder / name / weights, content)
    (folder / "model_index.json").write_text(json.dumps(published.MODEL_INDEX) + "\n")


def _save(path: Path, module: nnx.Module, rules: list[Rule], prefix: str = "") -> None:
    """Tensors whose names begin with `prefix`, without it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = dump(leaves_of(module), rules)
    kept = {n.removeprefix(prefix): x for n, x in tensors if n.startswith(prefix)}
    save_file({name: np.ascontiguousarray(x) for name, x in kept.items()}, path)


def _settings(path: Path, content: Mapping[str, Any]) -> None:
    path.with_name("config.json").write_text(json.dumps(content, indent=2) + "\n")
