"""Writes what was trained as the published repository lays it out, in bfloat16.

The text encoder is random and stays so: its features tell words and their order apart, which is all
that captions of one form need.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from pusa_jax.convert import t5
from pusa_jax.convert.tables import Rule, dump
from pusa_jax.convert.wan import dit, vae
from pusa_jax.demo.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.testing.tokenizer import save_tiny_tokenizer
from pusa_jax.weights.leaves import leaves_of

WORDS = ("a", "moves", "and", "bounces", "on", *COLOURS, *BACKGROUNDS, *SHAPES, *DIRECTIONS)
"""Every word of a caption is one token."""

TEXT_SEED = 7

DIT_FILE = "diffusion_pytorch_model.safetensors"
VAE_FILE = "Wan2.1_VAE.safetensors"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.safetensors"


def write_text_encoder(folder: Path, text_len: int) -> None:
    """Writes tokenizer and text encoder.

    Args:
      folder: created where it does not exist.
      text_len: tokens of a prompt, padding included.
    """
    vocab = save_tiny_tokenizer(folder / "google" / "umt5-xxl", WORDS)
    config = TextConfig(
        vocab=vocab, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2, text_len=text_len
    )
    draw = jax.jit(lambda key: leaves_of(T5Encoder(config, rngs=nnx.Rngs(key))))
    _save(folder / TEXT_FILE, draw(jax.random.key(TEXT_SEED)), t5.original_rules(config))


def write_vae(folder: Path, leaves: Mapping[str, np.ndarray]) -> None:
    """Writes the VAE, see `autoencoder.published_leaves`."""
    _save(folder / VAE_FILE, leaves, vae.original_rules(VAEConfig(dim=8)))


def write_dit(folder: Path, leaves: Mapping[str, jax.Array], config: DiTConfig) -> None:
    """Writes the DiT and its `config.json`."""
    _save(folder / DIT_FILE, leaves, dit.original_rules(config))
    record = {
        "_class_name": "WanModel",
        "model_type": "t2v",
        **{name: getattr(config, name) for name in ("dim", "ffn_dim", "freq_dim", "in_dim")},
        **{name: getattr(config, name) for name in ("num_heads", "num_layers", "out_dim")},
        "text_len": config.text_len,
        "eps": config.eps,
    }
    (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")


def _save(path: Path, leaves: Mapping[str, np.ndarray | jax.Array], rules: list[Rule]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    tensors = dump(dict(leaves), rules)
    save_file(
        {name: np.ascontiguousarray(x.astype(ml_dtypes.bfloat16)) for name, x in tensors}, part
    )
    part.replace(path)
