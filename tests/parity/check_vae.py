"""The VAE with recorded weights: whole clips, and Pusa's tiling with its clamped output."""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan.vae import original_rules
from pusa_jax.inference import tiling
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.testing.compare import relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT = 5e-5
ENCODE, DECODE = jax.jit(vae.encode), jax.jit(vae.decode)


@remembered
def load_vae(path: Path, recorded: dict) -> vae.WanVAE:
    """A tiny VAE from a weights file and the configuration a golden file states."""
    config = VAEConfig(
        dim=recorded["dim"],
        z_dim=recorded["z_dim"],
        dim_mult=tuple(recorded["dim_mult"]),
        num_res_blocks=recorded["num_res_blocks"],
        temporal_downsample=tuple(recorded["temperal_downsample"]),
        latent_mean=tuple(recorded["latent_mean"]),
        latent_std=tuple(recorded["latent_std"]),
    )

    def build():
        return vae.WanVAE(config, rngs=nnx.Rngs(0))

    return assemble(build, load(open_tensors(path), original_rules(config), shapes_of(build)))


def tensor(golden: Golden, name: str):
    return to_house_layout(golden.tensor(name))


def check_whole(golden: Golden, case: dict):
    model, name = load_vae(golden.weights(), golden.config), case["name"]
    if golden.has(f"out.{name}.latent"):
        actual = ENCODE(model, tensor(golden, f"in.{name}.video"))
        expected = tensor(golden, f"out.{name}.latent")
        yield Comparison("latent", relative_error(actual, expected), LIMIT)
    if golden.has(f"out.{name}.decoded"):
        actual = DECODE(model, tensor(golden, f"in.{name}.latent"))
        expected = tensor(golden, f"out.{name}.decoded")
        yield Comparison("decoded", relative_error(actual, expected), LIMIT)


def check_tiled(golden: Golden, case: dict):
    model, name, source = load_vae(golden.weights(), golden.config), case["name"], case["input"]
    encode, decode = (functools.partial(f, model) for f in (ENCODE, DECODE))
    video, latents = (tensor(golden, f"in.{source}.{what}") for what in ("video", "latent"))
    if case["tiled"]:
        geometry = model.config, tuple(case["tile_size"]), tuple(case["tile_stride"])
        encoded = tiling.encode_tiled(encode, video, *geometry)
        decoded = tiling.decode_tiled(decode, latents, *geometry)
    else:
        encoded, decoded = encode(video), np.clip(decode(latents), -1, 1)
    for what, actual in (("latent", encoded), ("decoded", decoded)):
        expected = tensor(golden, f"out.{name}.{what}")
        yield Comparison(what, relative_error(actual, expected), LIMIT)


CHECKS = {"wan21_vae": check_whole, "pusa_vae_tiled": check_tiled}
