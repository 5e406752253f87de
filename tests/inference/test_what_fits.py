"""Which settings and given frames can be sampled by networks of which sizes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.settings import Configs, check_all, latent_shape
from pusa_jax.models.wan.config import DiTConfig, VAEConfig

CONFIGS = Configs(dit=DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1), vae=VAEConfig())
SETTINGS = SamplingConfig(height=32, width=48, num_frames=17)
IMAGE = np.zeros((32, 48, 3), np.uint8)


def given(index, multiplier):
    latents = jnp.zeros((1, 1, 4, 6, 16))
    return FrameCondition(index=index, latents=latents, multiplier=multiplier)


def test_published_clips_have_published_latents():
    assert latent_shape(SamplingConfig(), CONFIGS) == (1, 21, 90, 160, 16)
    assert latent_shape(SETTINGS, CONFIGS) == (1, 5, 4, 6, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 40}, "height must be divisible by 16, got 40; nearest are 32 and 48"),
        ({"width": 47}, "width must be divisible by 16, got 47; nearest are 32 and 48"),
        ({"height": 8}, "height must be divisible by 16, got 8; nearest are 16 and 32"),
        ({"width": 0}, "width must be divisible by 16, got 0; nearest are 16 and 32"),
        ({"num_frames": 16}, "4k"),
    ],
)
def test_sizes_that_do_not_fit_name_their_neighbours(change, message):
    with pytest.raises(ValueError, match=message):
        latent_shape(dataclasses.replace(SETTINGS, **change), CONFIGS)


def test_the_smallest_clip_is_one_patch():
    least = SamplingConfig(height=16, width=16, num_frames=1)
    assert latent_shape(least, CONFIGS) == (1, 1, 2, 2, 16)


def test_a_patch_is_height_by_width():
    dit = dataclasses.replace(CONFIGS.dit, patch_size=(1, 2, 1))
    flat = dataclasses.replace(SETTINGS, height=32, width=40)
    assert latent_shape(flat, Configs(dit=dit, vae=CONFIGS.vae)) == (1, 5, 4, 5, 16)
    with pytest.raises(ValueError, match="height must be divisible by 16, got 40"):
        upright = dataclasses.replace(SETTINGS, height=40, width=32)
        latent_shape(upright, Configs(dit=dit, vae=CONFIGS.vae))


def test_given_pixels_and_given_latents_are_checked_together():
    first = tasks.image_to_video(IMAGE)
    check_all([*first, given(4, 0.5)], 5)
    with pytest.raises(ValueError, match="position 0 is given twice"):
        check_all([*first, given(0, 0.5)], 5)
    with pytest.raises(ValueError, match="position 5 is outside"):
        check_all([given(5, 0.5)], 5)
    with pytest.raises(ValueError, match=r"multiplier 1\.5 is outside"):
        check_all([given(1, 1.5)], 5)
    with pytest.raises(ValueError, match="nothing is left to sample"):
        check_all([*tasks.image_to_video(IMAGE, multipliers=[0.0]), given(1, 0.0)], 2)
