import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.mochi import vae
from pusa_jax.models.mochi.config import VAEConfig
from pusa_jax.testing.compare import assert_close, random_module
from pusa_jax.weights.leaves import shapes_of

TINY = VAEConfig(
    encoder_dims=(8, 16, 8, 16),
    decoder_dims=(8, 16, 8, 16),
    num_res_blocks=(1, 1, 2, 1, 1),
    num_groups=4,
    head_dim=4,
)
VIDEO = jax.random.uniform(jax.random.key(0), (1, 19, 16, 24, 3), minval=-1)
LATENTS = jax.random.normal(jax.random.key(1), (1, 4, 2, 3, 12))
ENCODE, DECODE = jax.jit(vae.encode), jax.jit(vae.decode)
FIRST, NEXT = jax.jit(vae.decode_first), jax.jit(vae.decode_next)


@pytest.fixture(scope="module")
def model():
    return random_module(lambda: vae.MochiVAE(TINY, rngs=nnx.Rngs(0)))


def test_published_size():
    shapes = shapes_of(lambda: vae.MochiVAE(VAEConfig(), rngs=nnx.Rngs(0)))
    encoder = sum(leaf.size for path, leaf in shapes.items() if path.startswith("encoder/"))
    assert encoder == 97_222_016
    assert sum(leaf.size for leaf in shapes.values()) - encoder == 362_526_595
    assert (VAEConfig().spatial_stride, VAEConfig().temporal_stride) == (8, 6)


def test_a_picture_is_the_first_latent_frame_of_its_clip(model):
    whole = ENCODE(model, VIDEO)
    assert whole.shape == (1, 4, 2, 3, 12)
    assert_close(ENCODE(model, VIDEO[:, :1]), whole[:, :1], 5e-6)
    assert_close(ENCODE(model, VIDEO[:, :7]), whole[:, :2], 5e-6)


def test_frames_that_fill_no_group_are_dropped(model):
    assert_close(ENCODE(model, VIDEO[:, :18]), ENCODE(model, VIDEO[:, :13]), 5e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_the_size_of_the_chunks_does_not_change_the_video(model, size):
    whole = DECODE(model, LATENTS)
    assert whole.shape == (1, 19, 16, 24, 3)
    frames, cache = FIRST(model, LATENTS[:, :1])
    parts = [frames]
    for i in range(1, 4, size):
        frames, cache = NEXT(model, LATENTS[:, i : i + size], cache)
        parts.append(frames)
    assert [part.shape[1] for part in parts] == [1, *[6 * size] * (3 // size)]
    assert_close(np.concatenate(parts, axis=1), whole, 2e-6)


def test_the_cache_does_not_grow(model):
    _, cache = jax.eval_shape(vae.decode_first, model, LATENTS[:, :1])
    _, later = jax.eval_shape(vae.decode_next, model, LATENTS[:, 1:2], cache)
    assert jax.tree.map(jnp.shape, later) == jax.tree.map(jnp.shape, cache)


def test_fourier_features_are_those_of_exact_arithmetic():
    x = np.asarray(VIDEO[:, :1], np.float64)
    angles = 2 * np.pi * np.stack([64 * x, 128 * x], axis=-1).reshape(*x.shape[:-1], 6)
    expected = np.concatenate([x, np.sin(angles), np.cos(angles)], axis=-1)
    assert_close(vae.fourier_features(VIDEO[:, :1]), expected, 1e-6)


def test_statistics_are_applied_once_on_either_side(model):
    mean, std = np.asarray([TINY.latent_mean, TINY.latent_std], np.float32).reshape(
        2, 1, 1, 1, 1, -1
    )
    raw, _ = jax.jit(vae.moments)(model, VIDEO[:, :1])
    assert_close(ENCODE(model, VIDEO[:, :1]), (raw - mean) / std, 2e-6)
    x = model.decoder(LATENTS[:, :1] * std + mean, None)[0]
    assert_close(DECODE(model, LATENTS[:, :1]), x, 2e-6)
