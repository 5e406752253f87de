"""The VAE with recorded weights: whole clips, and Pusa's tiling with its clamped output."""

import dataclasses
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan.vae import config_from_source, original_rules
from pusa_jax.models.family import Tiles
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import random_module, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT = 5e-5
ENCODE, DECODE = jax.jit(vae.encode), jax.jit(vae.decode)


@remembered
def load_vae(path: Path, recorded: dict) -> vae.WanVAE:
    """A tiny VAE from a weights file and the configuration a golden file states."""
    source = open_tensors(path)
    config = config_from_source(
        source,
        {
            "base_dim": recorded["dim"],
            "decoder_base_dim": recorded.get("dec_dim"),
            "z_dim": recorded["z_dim"],
            "dim_mult": recorded["dim_mult"],
            "num_res_blocks": recorded["num_res_blocks"],
            "temperal_downsample": recorded["temperal_downsample"],
            "latents_mean": recorded["latent_mean"],
            "latents_std": recorded["latent_std"],
        },
    )

    def build():
        return vae.WanVAE(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, original_rules(config), shapes_of(build)))


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


@remembered
def vae_pipeline(golden: Golden) -> WatchedPipeline:
    """The shipped pipeline around a recorded VAE; its other networks are never asked."""
    config = DiTConfig(dim=2, ffn_dim=1, num_heads=1, num_layers=1)
    dit = random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    return WatchedPipeline(dit, load_vae(golden.weights(), golden.config), {"": np.zeros((1, 1))})


def check_tiled(golden: Golden, case: dict):
    """The pipeline's own encoding and decoding, its tiles made as small as the recorded ones."""
    pipe, name, source = vae_pipeline(golden), case["name"], case["input"]
    video, latents = (tensor(golden, f"in.{source}.{what}") for what in ("video", "latent"))
    tile, stride = tuple(case["tile_size"]), tuple(case["tile_stride"])
    codec = dataclasses.replace(WAN21.codec, sampling_tiles=Tiles(size=tile, stride=stride))
    with mock.patch.object(pipe, "family", dataclasses.replace(WAN21, codec=codec)):
        encoded = pipe.encode(np.asarray(video), case["tiled"])
        decoded = pipe.decode(latents, case["tiled"])[None]
    for what, actual in (("latent", encoded), ("decoded", decoded)):
        expected = tensor(golden, f"out.{name}.{what}")
        yield Comparison(what, relative_error(actual, expected), LIMIT)


CHECKS = {"wan21_vae": check_whole, "wan22_vae": check_whole, "pusa_vae_tiled": check_tiled}
