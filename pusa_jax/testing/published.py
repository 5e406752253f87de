"""A tiny random model in the layout of the published Wan2.1 folder, for the demo and for tests."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from pusa_jax.convert import t5
from pusa_jax.convert.tables import Rule, dump
from pusa_jax.convert.wan import dit as wan
from pusa_jax.convert.wan import vae
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
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
    text = dataclasses.replace(TEXT, vocab=vocab)

    dit = random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)), seed)
    _save(folder / "diffusion_pytorch_model.safetensors", dit, wan.original_rules(DIT))
    autoencoder = random_module(lambda: WanVAE(VAE, rngs=nnx.Rngs(0)), seed + 1)
    _save(folder / "Wan2.1_VAE.safetensors", autoencoder, vae.original_rules(VAE))
    encoder = random_module(lambda: T5Encoder(text, rngs=nnx.Rngs(0)), seed + 2)
    name = "models_t5_umt5-xxl-enc-bf16.safetensors"
    _save(folder / name, encoder, t5.original_rules(text), ml_dtypes.bfloat16)

    config = {
        "_class_name": "WanModel",
        "model_type": "t2v",
        **{name: getattr(DIT, name) for name in ("dim", "ffn_dim", "freq_dim", "in_dim")},
        **{name: getattr(DIT, name) for name in ("num_heads", "num_layers", "out_dim", "text_len")},
        "eps": DIT.eps,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _save(path: Path, module: nnx.Module, rules: list[Rule], dtype: DTypeLike = np.float32) -> None:
    tensors = dump(leaves_of(module), rules)
    save_file({name: np.ascontiguousarray(x.astype(dtype)) for name, x in tensors}, path)
