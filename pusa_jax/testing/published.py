"""Tiny random models in the layouts of published Wan folders, for the demo and for tests."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from pusa_jax.convert import t5
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import Rule, dump
from pusa_jax.convert.wan import dit as wan
from pusa_jax.convert.wan import published, vae
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan.config import WAN22_VAE, DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import random_module
from pusa_jax.testing.tokenizer import save_tiny_tokenizer
from pusa_jax.weights.leaves import leaves_of

WORDS = "a the red green blue person dog cat rocket bicycle street city moves rides flies slowly on"
DIT = DiTConfig(
    dim=96, ffn_dim=192, num_heads=4, num_layers=3, text_dim=32, text_len=32, freq_dim=64
)
VAE = VAEConfig(dim=8)
TI2V = dataclasses.replace(DIT, in_dim=48, out_dim=48)
VAE22 = dataclasses.replace(WAN22_VAE, dim=8, decoder_dim=12, num_res_blocks=1)
TEXT = TextConfig(dim=32, dim_attn=32, dim_ffn=64, num_heads=4, num_layers=2, text_len=32)


def write_published_folder(folder: Path, seed: int = 0) -> None:
    """Writes DiT, VAE, text encoder and tokenizer as the original repository lays them out.

    The text encoder is stored in bfloat16 and the others in float32, as published.

    Args:
      folder: created; files in it are replaced.
      seed: of the random weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab = save_tiny_tokenizer(folder / "google" / "umt5-xxl", WORDS.split())
    _save_dit(folder / "diffusion_pytorch_model.safetensors", "original", seed)
    _save_vae(folder / "Wan2.1_VAE.safetensors", "original", seed + 1)
    name = "models_t5_umt5-xxl-enc-bf16.safetensors"
    _save_text_encoder(folder / name, "original", vocab, seed + 2)


def write_two_experts(
    folder: Path, layout: Layout = "original", seed: int = 0, boundary: float = 0.875
) -> None:
    """Writes a tiny Wan2.2-T2V-A14B as its repositories lay it out; see `write_published_folder`.

    Args:
      folder: created; files in it are replaced.
      layout: original or Diffusers.
      seed: of the random weights; that of the low-noise expert is 3 more.
      boundary: what model_index.json says of it in the Diffusers layout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = "diffusion_pytorch_model.safetensors"
    if layout == "original":
        high, low, autoencoder = "high_noise_model", "low_noise_model", "Wan2.1_VAE.safetensors"
        tokenizer, encoder = "google/umt5-xxl", "models_t5_umt5-xxl-enc-bf16.safetensors"
    else:
        high, low, autoencoder = "transformer", "transformer_2", f"vae/{weights}"
        tokenizer, encoder = "tokenizer", "text_encoder/model.safetensors"
        index = published.MODEL_INDEX | published.TWO_EXPERTS | {"boundary_ratio": boundary}
        _write_json(folder / "model_index.json", index)
    vocab = save_tiny_tokenizer(folder / tokenizer, WORDS.split())
    _save_dit(folder / high / weights, layout, seed)
    _save_dit(folder / low / weights, layout, seed + 3)
    _save_vae(folder / autoencoder, layout, seed + 1)
    _save_text_encoder(folder / encoder, layout, vocab, seed + 2)


def write_ti2v(folder: Path, layout: Layout = "original", seed: int = 0) -> None:
    """Writes a tiny Wan2.2-TI2V-5B as its repositories lay it out; see `write_published_folder`.

    Args:
      folder: created; files in it are replaced.
      layout: original or Diffusers.
      seed: of the random weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = "diffusion_pytorch_model.safetensors"
    if layout == "original":
        denoiser, autoencoder = weights, "Wan2.2_VAE.safetensors"
        tokenizer, encoder = "google/umt5-xxl", "models_t5_umt5-xxl-enc-bf16.safetensors"
    else:
        denoiser, autoencoder = f"transformer/{weights}", f"vae/{weights}"
        tokenizer, encoder = "tokenizer", "text_encoder/model.safetensors"
        index = published.MODEL_INDEX | published.EVERY_TOKEN
        _write_json(folder / "model_index.json", index)
    vocab = save_tiny_tokenizer(folder / tokenizer, WORDS.split())
    _save_dit(folder / denoiser, layout, seed, TI2V)
    _save_vae(folder / autoencoder, layout, seed + 1, VAE22)
    _save_text_encoder(folder / encoder, layout, vocab, seed + 2)


def _save_dit(path: Path, layout: Layout, seed: int, config: DiTConfig = DIT) -> None:
    """A denoiser and the config.json that lies beside it."""
    module = random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0)), seed)
    rules = wan.original_rules if layout == "original" else wan.diffusers_rules
    _save(path, module, rules(config))
    if layout == "diffusers":
        settings = published.diffusers_dit(config)
    else:
        settings = (published.original_dit if config is DIT else published.original_ti2v)(config)
    _write_json(path.with_name("config.json"), settings)


def _save_vae(path: Path, layout: Layout, seed: int, config: VAEConfig = VAE) -> None:
    module = random_module(lambda: WanVAE(config, rngs=nnx.Rngs(0)), seed)
    rules = vae.original_rules if layout == "original" else vae.diffusers_rules
    _save(path, module, rules(config))
    if layout == "diffusers":
        _write_json(path.with_name("config.json"), published.diffusers_vae(config))


def _save_text_encoder(path: Path, layout: Layout, vocab: int, seed: int) -> None:
    config = dataclasses.replace(TEXT, vocab=vocab)
    module = random_module(lambda: T5Encoder(config, rngs=nnx.Rngs(0)), seed)
    rules = t5.original_rules if layout == "original" else t5.transformers_rules
    _save(path, module, rules(config), ml_dtypes.bfloat16)
    if layout == "diffusers":
        _write_json(path.with_name("config.json"), published.transformers_text(config))


def _save(path: Path, module: nnx.Module, rules: list[Rule], dtype: DTypeLike = np.float32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = dump(leaves_of(module), rules)
    save_file({name: np.ascontiguousarray(x.astype(dtype)) for name, x in tensors}, path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
