"""A tiny network, its recipes and batches, for the tests of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pusa_jax.data.batches import NoiseClips
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.wan.config import BLOCK_LINEARS, DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import random_module
from pusa_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
)
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import OptimizerConfig
from pusa_jax.training.step import Frozen, Recipe
from pusa_jax.weights.leaves import leaves_of

DIT = DiTConfig(
    dim=32, ffn_dim=48, num_heads=4, num_layers=2, text_dim=12, text_len=6, freq_dim=16, in_dim=4,
    out_dim=4,
)  # fmt: skip
LORA = AdapterConfig(rank=4, alpha=8.0, targets=BLOCK_LINEARS)

VAE = VAEConfig(
    dim=4, z_dim=4, dim_mult=(1, 1), num_res_blocks=1, temporal_downsample=(True,),
    latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4,
)  # fmt: skip


def settings(**changes) -> RunConfig:
    """A run of 20 steps of 8 clips on a mesh of data=4, context=2."""
    run = RunConfig(
        model=ModelConfig(dit=DIT, vae=VAE, dtype="float32", remat="none"),
        adapter=LORA,
        objective=ObjectiveConfig(text_dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip_norm=1.0, ema_decay=0.9),
        data=DataConfig(batch_size=8, height=8, width=8, num_frames=5),
        mesh=MeshConfig(context=2),
        checkpoint=CheckpointConfig(every=10),
        log=LogConfig(every=3, tensorboard=False),
        steps=20,
        seed=3,
    )
    return dataclasses.replace(run, **changes)


def noise_clips(run: RunConfig) -> NoiseClips:
    return NoiseClips(run.clip_shape, run.text_shape, count=20)


def recipe(adapter=LORA, dtype="float32", remat="none", **optimizer) -> Recipe:
    return Recipe(
        family=WAN21,
        dit=dataclasses.replace(DIT, compute_dtype=dtype, remat=remat),
        adapter=adapter,
        objective=ObjectiveConfig(text_dropout=0.1),
        optimizer=OptimizerConfig(**optimizer),
        steps=20,
    )


def base(dtype="float32"):
    leaves = leaves_of(random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)), 0))
    return {path: jnp.asarray(leaf, dtype) for path, leaf in leaves.items()}


def random_adapters(fresh, seed=1):
    """Adapters that add something: no factor is left at zero."""
    keys = jax.random.split(jax.random.key(seed), len(fresh))
    shapes = zip(keys, fresh.items(), strict=True)
    return {path: 0.3 * jax.random.normal(key, leaf.shape) for key, (path, leaf) in shapes}


def merged(leaves, adapters, scale):
    """Kernels with what the adapters add, by the formula of `models.adapters`."""
    added = {
        f"{path.removesuffix('/lora_a')}/kernel": scale
        * np.asarray(a, np.float64)
        @ np.asarray(adapters[path.replace("lora_a", "lora_b")], np.float64)
        for path, a in adapters.items()
        if path.endswith("/lora_a")
    }
    return {
        path: np.asarray(leaf + added.get(path, 0), leaf.dtype) for path, leaf in leaves.items()
    }


def frozen(leaves) -> Frozen:
    return Frozen(base=leaves, no_text=jnp.zeros((1, DIT.text_len, DIT.text_dim)))


def batch(count: int, seed: int = 0):
    latents, text = jax.random.split(jax.random.key(seed))
    return {
        "latents": jax.random.normal(latents, (count, 3, 4, 4, DIT.in_dim)),
        "text": jax.random.normal(text, (count, DIT.text_len, DIT.text_dim)),
    }
