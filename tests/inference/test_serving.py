"""Several denoisers in one run: which serves which level, and what each attends to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from watched import WatchedPipeline

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.inference.pipeline import Expert
from pusa_jax.inference.step import prepare_prompts
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import assert_close, random_module

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
SETTINGS = SamplingConfig(height=16, width=16, num_frames=5, num_steps=4, tiled=False)
LEVELS = pusa_schedule(4, 5.0)[:-1]
"""1, 0.9375, 0.8333 and 0.625."""


def pipeline(first_levels, order=slice(None)):
    """Networks of different weights, the first for the highest levels, given in some order."""
    dits = [
        random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)), i) for i in range(len(first_levels))
    ]
    experts = [
        Expert(dit=dit, first_level=level) for dit, level in zip(dits, first_levels, strict=True)
    ]
    rng = np.random.default_rng(1)
    texts = {prompt: rng.standard_normal((8, 16), np.float32) for prompt in ("a ball", "a dog")}
    vae = random_module(lambda: WanVAE(VAE, rngs=nnx.Rngs(0)))
    return WatchedPipeline(experts[order], vae, texts), dits, texts


def asked(pipe, dits):
    pipe("a ball", negative_prompt="a dog", settings=SETTINGS)
    return [next(i for i, dit in enumerate(dits) if dit is step.dit) for step in pipe.steps]


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_an_expert_serves_from_its_first_level_up_to_the_next_ones(order):
    pipe, dits, _ = pipeline([float(LEVELS[1]), 0.0], order)
    assert asked(pipe, dits) == [0, 0, 1, 1]


def test_a_level_below_the_first_is_the_next_experts():
    pipe, dits, _ = pipeline([float(np.nextafter(LEVELS[1], np.float32(1))), 0.7, 0.0])
    assert asked(pipe, dits) == [0, 1, 1, 2]


def test_every_expert_attends_to_keys_of_its_own():
    """A step of the second is that of a pipeline of the second alone, from the same latents."""
    pipe, dits, texts = pipeline([0.9, 0.0])
    assert asked(pipe, dits) == [0, 0, 1, 1]
    step = pipe.steps[2]
    features = tuple(jnp.asarray(texts[prompt])[None] for prompt in ("a ball", "a dog"))

    @jax.jit
    def velocity(dit):
        prompts = prepare_prompts(WAN21, dit, features)
        timesteps = jnp.asarray(step.row.timesteps)[None]
        ball, dog = (
            WAN21.velocity(
                dit, jnp.asarray(step.before), timesteps, jax.tree.map(lambda x, i=i: x[i], prompts)
            )
            for i in range(2)
        )
        return dog + 3 * (ball - dog)

    moved = np.asarray(step.row.coefficients)[None, :, None, None, None] * velocity(dits[1])
    assert_close(step.after - step.before, moved, 1e-5)
