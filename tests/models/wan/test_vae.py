import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.conv import CausalConv
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import WAN22_VAE, VAEConfig
from pusa_jax.testing.compare import assert_close, random_module

CONFIG = VAEConfig(dim=4, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True))
VIDEO = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 9, 8, 12, 3)), jnp.float32)
ENCODE, DECODE = jax.jit(vae.encode), jax.jit(vae.decode)
ENCODE_FIRST, ENCODE_NEXT = jax.jit(vae.encode_first), jax.jit(vae.encode_next)
DECODE_FIRST, DECODE_NEXT = jax.jit(vae.decode_first), jax.jit(vae.decode_next)


def build(config=CONFIG):
    return random_module(lambda: vae.WanVAE(config, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def latents(model):
    return ENCODE(model, VIDEO)


def abstract(config):
    return nnx.eval_shape(lambda: vae.WanVAE(config, rngs=nnx.Rngs(0)))


def video_of(frames, height, width):
    return jax.ShapeDtypeStruct((1, frames, height, width, 3), jnp.float32)


def gigabytes(tree):
    return round(sum(4 * leaf.size for leaf in jax.tree.leaves(tree)) / 1e9, 2)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize(
    ("config", "size", "encoder_cache", "decoder_cache"),
    [(VAEConfig(), (720, 1280), 5.18, 8.72), (WAN22_VAE, (704, 1280), 2.12, 6.43)],
    ids=["wan2.1", "wan2.2"],
)
def test_published_size_steps_through_720p_with_a_cache_of_fixed_shape(
    config, size, encoder_cache, decoder_cache
):
    full = abstract(config)
    cells = tuple(n // config.spatial_stride for n in size)
    latents, cache = jax.eval_shape(vae.encode_first, full, video_of(1, *size))
    assert latents.shape == (1, 1, *cells, config.z_dim)
    latents, later = jax.eval_shape(vae.encode_next, full, video_of(4, *size), cache)
    assert latents.shape == (1, 1, *cells, config.z_dim) and shapes(later) == shapes(cache)
    assert gigabytes(cache) == encoder_cache

    video, cache = jax.eval_shape(vae.decode_first, full, latents)
    assert video.shape == (1, 1, *size, 3)
    video, later = jax.eval_shape(vae.decode_next, full, latents, cache)
    assert video.shape == (1, 4, *size, 3) and shapes(later) == shapes(cache)
    assert gigabytes(cache) == decoder_cache


@pytest.mark.parametrize("config", [VAEConfig(), WAN22_VAE], ids=["wan2.1", "wan2.2"])
def test_published_size_lowers(config):
    full = abstract(config)
    latents, cache = jax.eval_shape(vae.encode_first, full, video_of(1, 64, 64))
    ENCODE_NEXT.lower(full, video_of(config.temporal_stride, 64, 64), cache)
    _, cache = jax.eval_shape(vae.decode_first, full, latents)
    DECODE_NEXT.lower(full, latents, cache)


def test_encoding_step_by_step_is_encoding_the_clip(model, latents):
    first, cache = ENCODE_FIRST(model, VIDEO[:, :1])
    parts = [first]
    for start in (1, 5):
        part, cache = ENCODE_NEXT(model, VIDEO[:, start : start + 4], cache)
        parts.append(part)
    assert latents.shape == (2, 3, 2, 3, 16) and latents.dtype == jnp.float32
    assert_close(jnp.concatenate(parts, 1), latents, 1e-6)


def test_decoding_step_by_step_is_decoding_the_clip(model, latents):
    video, cache = DECODE_FIRST(model, latents[:, :1])
    parts = [video]
    for i in (1, 2):
        part, cache = DECODE_NEXT(model, latents[:, i : i + 1], cache)
        parts.append(part)
    whole = DECODE(model, latents)
    assert whole.shape == VIDEO.shape and whole.dtype == jnp.float32
    assert_close(jnp.concatenate(parts, 1), whole, 1e-6)


def test_larger_chunks_change_nothing(model, latents):
    _, cache = ENCODE_FIRST(model, VIDEO[:, :1])
    two_at_once, _ = ENCODE_NEXT(model, VIDEO[:, 1:], cache)
    assert_close(two_at_once, latents[:, 1:], 1e-6)


def test_a_single_image_is_a_clip_of_one_frame(model, latents):
    assert_close(ENCODE(model, VIDEO[:, :1]), latents[:, :1], 1e-6)
    assert DECODE(model, latents[:, :1]).shape == (2, 1, 8, 12, 3)


def test_later_frames_do_not_reach_earlier_latents(model, latents):
    changed = ENCODE(model, VIDEO.at[:, 5:].multiply(-1))
    assert_close(changed[:, :2], latents[:, :2], 1e-7)
    assert not jnp.allclose(changed[:, 2], latents[:, 2], atol=1e-2)


def with_config(model, config):
    """The same weights under another configuration of the same shapes."""
    return nnx.merge(nnx.graphdef(abstract(config)), nnx.state(model))


def test_latents_are_normalised_by_the_statistics_of_the_config(model, latents):
    plain = dataclasses.replace(CONFIG, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)
    raw, image, code = with_config(model, plain), VIDEO[:, :1], latents[:, :1]
    mean, std = (
        jnp.asarray(x).reshape(1, 1, 1, 1, -1) for x in (CONFIG.latent_mean, CONFIG.latent_std)
    )
    assert_close((ENCODE_FIRST(raw, image)[0] - mean) / std, code, 1e-6)
    assert_close(DECODE_FIRST(raw, code * std + mean)[0], DECODE_FIRST(model, code)[0], 1e-6)


def test_bfloat16_compute_stays_near_float32_and_returns_float32(model, latents):
    half = with_config(model, dataclasses.replace(CONFIG, compute_dtype="bfloat16"))
    encoded, _ = ENCODE_FIRST(half, VIDEO[:, :1])
    decoded, _ = DECODE_FIRST(half, latents[:, :1])
    assert 1e-4 < assert_close(encoded, latents[:, :1], 0.05)
    assert 1e-4 < assert_close(decoded, DECODE_FIRST(model, latents[:, :1])[0], 0.05)
    for whole in (
        jax.eval_shape(vae.encode, half, VIDEO),
        jax.eval_shape(vae.decode, half, latents),
    ):
        assert whole.dtype == encoded.dtype == decoded.dtype == jnp.float32


def test_weights_may_be_held_in_bfloat16():
    narrow = dataclasses.replace(CONFIG, param_dtype="bfloat16", compute_dtype="bfloat16")
    leaves = jax.tree.leaves(abstract(narrow))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("flags", [(True, False), (False, False), (True, True)])
def test_strides_follow_the_config(flags):
    config = VAEConfig(
        dim=2, z_dim=2, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=flags,
        latent_mean=(0.0, 0.0), latent_std=(1.0, 1.0),
    )  # fmt: skip
    stride = 2 ** sum(flags)
    latents = jax.eval_shape(vae.encode, abstract(config), video_of(1 + 2 * stride, 8, 12))
    assert latents.shape == (1, 3, 2, 3, 2)
    video = jax.eval_shape(vae.decode, abstract(config), latents)
    assert video.shape == (1, 1 + 2 * stride, 8, 12, 3)


@pytest.mark.parametrize("frames", [3, 6])
def test_a_chunk_of_the_wrong_length_is_refused(model, frames):
    _, cache = jax.eval_shape(vae.encode_first, model, video_of(1, 8, 12))
    with pytest.raises(ValueError, match=f"a multiple of 4 frames, got {frames}"):
        jax.eval_shape(vae.encode_next, model, video_of(frames, 8, 12), cache)


def conv_in_3d(x, kernel, bias):
    """XLA's own 3-D convolution, zeros before the clip and around the frames."""
    k, kh, kw = kernel.shape[:3]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), [(k - 1, 0), (kh // 2, kh // 2), (kw // 2, kw // 2)],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip
    return y + bias.reshape(1, 1, 1, 1, -1)


@pytest.mark.parametrize("window", [(3, 3, 3), (3, 1, 1), (1, 3, 3), (2, 3, 1)])
def test_a_causal_convolution_in_chunks_is_the_3d_convolution_of_the_clip(window):
    kinds = {"dtype": "float32", "param_dtype": "float32"}
    conv = random_module(lambda: CausalConv((3, 5), window, **kinds, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 5, 6, 3)), jnp.float32)
    parts, history = [], None
    for start, stop in ((0, 1), (1, 2), (2, 5), (5, 7)):
        y, history = conv(x[:, start:stop], history)
        assert history.shape == (2, window[0] - 1, 5, 6, 3)
        parts.append(y)
    expected = conv_in_3d(x, conv.kernel[...], conv.bias[...])
    assert_close(jnp.concatenate(parts, 1), expected, 1e-6)


def test_a_clip_starts_with_one_frame():
    kinds = {"dtype": "float32", "param_dtype": "float32"}
    conv = nnx.eval_shape(lambda: CausalConv((3, 5), **kinds, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="a chunk of 1 frame, got 2"):
        jax.eval_shape(lambda c, x: c(x, None), conv, jnp.zeros((1, 2, 4, 4, 3)))
