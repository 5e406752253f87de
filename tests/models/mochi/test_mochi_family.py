"""What the record of Mochi does between its networks and the rest of the library."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.grids import linear_quadratic
from pusa_jax.models.family import Tiles
from pusa_jax.models.mochi.config import LATENT_MEAN, LATENT_STD, DiTConfig, VAEConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.testing.compare import random_module

DIT = DiTConfig(
    dim=48, context_dim=32, ffn_dim=64, context_ffn_dim=40, num_heads=4, num_layers=2,
    pool_heads=2, text_dim=20, text_len=6, freq_dim=32, param_dtype="bfloat16",
    compute_dtype="bfloat16",
)  # fmt: skip


def test_a_velocity_is_the_negative_of_the_prediction_in_the_dtype_of_the_latents():
    dit = random_module(lambda: MochiDiT(DIT, rngs=nnx.Rngs(0)))
    latents = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 12))
    levels, text = jnp.asarray([[1000.0, 300.0]]), jnp.ones((1, 6, 20))

    @jax.jit
    def both(dit):
        prepared = MOCHI.prepare(dit, text)
        return MOCHI.velocity(dit, latents, levels, prepared), dit(latents, levels, prepared)

    ours, predicted = both(dit)
    assert (ours.dtype, predicted.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(ours, -predicted.astype(jnp.float32))
    assert jnp.abs(ours).max() > 0


def test_given_frames_lose_their_normalisation():
    """Sheet of Pusa V0.5 on Mochi, §8.1."""
    latents = np.random.default_rng(0).standard_normal((1, 2, 2, 3, 12)).astype(np.float32)
    assert MOCHI.given is not None
    mean, std = np.asarray([LATENT_MEAN, LATENT_STD], np.float32)
    expected = latents * std + mean
    np.testing.assert_allclose(MOCHI.given(latents, VAEConfig()), expected, rtol=1e-6)


def test_tiles_overlap_and_the_original_s_are_quarters():
    """DEPARTS: quarters that only touch leave seams, so they are decoded with only when asked."""
    ours = Tiles(size=(32, 56), stride=(24, 44))
    assert MOCHI.codec.sampling_tiles == MOCHI.codec.dataset_tiles == ours
    assert MOCHI.codec.original_tiles is not None
    assert MOCHI.codec.original_tiles((60, 106)) == Tiles(size=(30, 53), stride=(30, 53))


def test_a_fast_run_has_eight_steps_of_little_guidance():
    """Of genmo's demos/cli.py: threshold 0.1, 6 linear steps, guidance 1.5 at every step."""
    other = SamplingConfig(height=96, width=64, num_frames=7, seed=5, solver="unipc")
    levels = tuple(linear_quadratic(8, 0.1, 6)[:-1].tolist())
    fast = {
        "num_steps": 8,
        "levels": levels,
        "guidance_scale": 1.5,
        "guidance_schedule": (1.5,) * 8,
        "solver": "euler",
    }
    assert MOCHI.few_steps(other) == dataclasses.replace(other, **fast)
