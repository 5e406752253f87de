import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.models.wan.vae_shortcuts import (
    Cell,
    from_patches,
    mean_shortcut,
    repeat_shortcut,
    to_patches,
)
from pusa_jax.testing.compare import assert_close, random_module

CONFIG = VAEConfig(
    dim=4, decoder_dim=6, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(False, True),
    patch_size=2, has_stage_shortcuts=True,
)  # fmt: skip
VIDEO = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5, 16, 24, 3)), jnp.float32)


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


def pooled(x):
    """Means over squares of 2 x 2 positions."""
    b, t, h, w, c = x.shape
    return np.asarray(x).reshape(b, t, h // 2, 2, w // 2, 2, c).mean(axis=(3, 5))


def enlarged(x):
    """Each position twice along height and width."""
    return np.repeat(np.repeat(x, 2, axis=2), 2, axis=3)


def test_patches_are_ordered_by_colour_column_and_row():
    video = numbers(1, 2, 4, 6, 3)
    patches = to_patches(video, 2)
    assert patches.shape == (1, 2, 2, 3, 12)
    for y, x, colour, column, row in np.ndindex(2, 3, 3, 2, 2):
        channel = (colour * 2 + column) * 2 + row
        pixels = video[:, :, 2 * y + row, 2 * x + column, colour]
        np.testing.assert_array_equal(patches[:, :, y, x, channel], pixels)
    np.testing.assert_array_equal(from_patches(patches, 2), video)
    np.testing.assert_array_equal(to_patches(video, 1), video)


def test_a_stage_that_halves_space_is_passed_by_average_pooling():
    x = numbers(2, 3, 4, 6, 8)
    past = mean_shortcut(x, False, cell=Cell(1, 2), channels=8)
    np.testing.assert_allclose(past, pooled(x), atol=1e-6)


def test_a_stage_that_halves_time_keeps_both_frames_as_channels():
    x = numbers(2, 4, 4, 6, 8)
    past = mean_shortcut(x, False, cell=Cell(2, 2), channels=16)
    expected = np.stack([pooled(x[:, 0::2]), pooled(x[:, 1::2])], axis=-1)
    np.testing.assert_allclose(past, expected.reshape(2, 2, 2, 3, 16), atol=1e-6)


def test_the_first_frame_of_a_clip_stands_in_the_second_place():
    x = numbers(2, 1, 4, 6, 8)
    past = mean_shortcut(x, True, cell=Cell(2, 2), channels=16)
    np.testing.assert_array_equal(past[..., 0::2], 0)
    np.testing.assert_allclose(past[..., 1::2], pooled(x), atol=1e-6)


def test_a_stage_that_changes_nothing_is_passed_unchanged():
    x = numbers(2, 4, 4, 6, 8)
    np.testing.assert_array_equal(mean_shortcut(x, False, cell=Cell(1, 1), channels=8), x)


def test_a_stage_that_doubles_time_and_space_is_passed_by_repetition():
    x = numbers(2, 3, 2, 3, 8)
    past = repeat_shortcut(x, False, cell=Cell(2, 2), channels=8)
    np.testing.assert_array_equal(past, enlarged(np.repeat(x, 2, axis=1)))
    first = repeat_shortcut(x[:, :1], True, cell=Cell(2, 2), channels=8)
    np.testing.assert_array_equal(first, enlarged(x[:, :1]))


def test_a_stage_that_halves_channels_is_passed_by_one_channel_per_row():
    x = numbers(2, 3, 2, 3, 8)
    past = repeat_shortcut(x, False, cell=Cell(1, 2), channels=4)
    for row in (0, 1):
        expected = np.repeat(x[..., row::2], 2, axis=3)
        np.testing.assert_array_equal(past[:, :, row::2], expected)


@pytest.fixture(scope="module")
def model():
    return random_module(lambda: vae.WanVAE(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def latents(model):
    return jax.jit(vae.encode)(model, VIDEO)


def test_a_clip_passes_step_by_step_as_in_one_piece(model, latents):
    first, cache = jax.jit(vae.encode_first)(model, VIDEO[:, :1])
    two, later = jax.jit(vae.encode_next)(model, VIDEO[:, 1:], cache)  # two steps at once
    assert latents.shape == (2, 3, 2, 3, 16)
    assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, later)
    assert_close(jnp.concatenate([first, two], 1), latents, 1e-6)

    whole = jax.jit(vae.decode)(model, latents)
    first, cache = jax.jit(vae.decode_first)(model, latents[:, :1])
    rest, later = jax.jit(vae.decode_next)(model, latents[:, 1:], cache)
    assert whole.shape == VIDEO.shape
    assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, later)
    assert_close(jnp.concatenate([first, rest], 1), whole, 1e-6)


def test_later_frames_do_not_reach_earlier_latents(model, latents):
    changed = jax.jit(vae.encode)(model, VIDEO.at[:, 3:].multiply(-1))
    assert_close(changed[:, :2], latents[:, :2], 1e-7)
    assert not jnp.allclose(changed[:, 2], latents[:, 2], atol=1e-2)


def test_shortcuts_keep_the_dtype():
    x = numbers(1, 1, 4, 4, 8).astype(jnp.bfloat16)
    assert mean_shortcut(x, True, cell=Cell(2, 2), channels=16).dtype == jnp.bfloat16
    assert repeat_shortcut(x, True, cell=Cell(2, 2), channels=8).dtype == jnp.bfloat16
