"""The runner of an autoencoder: which frames its programs get, and what it makes of them."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.inference import tiling
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.models.family import Chunks, Tiles
from pusa_jax.models.wan.config import WAN22_VAE, VAEConfig
from pusa_jax.models.wan.family import WAN21

CONFIG = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
STRIDE, CELL = CONFIG.temporal_stride, CONFIG.spatial_stride


def encode_first(module, pixels):
    """A latent frame of the sum of its pixel frames; the cache counts the frames behind it."""
    return pixels.sum(1, keepdims=True)[:, :, ::CELL, ::CELL], pixels.shape[1] * jnp.ones(())


def encode_next(module, pixels, seen):
    latents, new = encode_first(module, pixels)
    return latents + 100 * seen, seen + new


def decode_first(module, latents):
    return latents.repeat(CELL, 2).repeat(CELL, 3), jnp.ones(())


def decode_next(module, latents, seen):
    pixels, _ = decode_first(module, latents)
    return (pixels + seen / 100).repeat(STRIDE, 1), seen + 1


@pytest.fixture(scope="module")
def runner():
    codec = dataclasses.replace(
        WAN21.codec,
        encode=Chunks(first=encode_first, next=encode_next),
        decode=Chunks(first=decode_first, next=decode_next),
    )
    return Autoencoder(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), codec, CONFIG)


def test_tiles_of_pixels_are_as_large_as_the_cells_that_they_become(runner, monkeypatch):
    laid = []

    def encode_tiled(run, pixels, cell, tiles):
        laid.append(cell)
        return np.zeros((1, 1, 1, 1, 3), np.float32)

    monkeypatch.setattr(tiling, "encode_tiled", encode_tiled)
    tiles = Tiles(size=(2, 2), stride=(1, 1))
    for config in (CONFIG, WAN22_VAE):
        other = copy.copy(runner)
        other.config = config
        other.encode(clip([0]), tiles)
    assert laid == [8, 16]


def clip(values, size=CELL, channels=3):
    frames = np.asarray(values, np.float32)[None, :, None, None, None]
    return np.broadcast_to(frames, (1, len(values), size, size, channels)).copy()


def test_a_first_frame_is_encoded_alone_and_the_others_by_strides(runner):
    latents = runner.encode(clip(range(1 + 2 * STRIDE)))
    assert latents.shape == (1, 3, 1, 1, 3)
    # 0; 1 + .. + 4 behind one frame; 5 + .. + 8 behind five.
    assert latents[0, :, 0, 0, 0].tolist() == [0, 10 + 100, 26 + 500]


def test_latent_frames_are_decoded_one_by_one_each_behind_those_before(runner):
    video = runner.decode(clip([0.1, 0.2, 0.3], size=1))
    assert video.shape == (1, 1 + 2 * STRIDE, CELL, CELL, 3)
    expected = [0.1] + [0.2 + 0.01] * STRIDE + [0.3 + 0.02] * STRIDE
    np.testing.assert_allclose(video[0, :, 0, 0, 0], expected, rtol=1e-5)


def test_decoded_pixels_are_clamped_and_latents_are_not(runner):
    assert runner.decode(clip([-3.0, 4.0], size=1))[0, [0, 1], 0, 0, 0].tolist() == [-1, 1]
    assert runner.encode(clip([-3.0]))[0, 0, 0, 0, 0] == -3


def test_progress_counts_latent_frames_or_tiles(runner):
    told = []
    tiles = Tiles(size=(2, 2), stride=(1, 1))
    runner.decode(clip([0.0] * 3, size=3), on_part=lambda *part: told.append(part))
    assert told == [(2, 3), (3, 3)]
    told.clear()
    runner.decode(clip([0.0], size=3), tiles, on_part=lambda *part: told.append(part))
    assert told == [(i, 4) for i in range(1, 5)]


def test_tiles_are_blended_to_the_size_of_the_whole(runner):
    tiles = Tiles(size=(2, 2), stride=(1, 1))
    pixels, latents = clip([0.5, *[0.25] * STRIDE], 3 * CELL), clip([0.5, 0.25], 3)
    np.testing.assert_allclose(runner.encode(pixels, tiles), runner.encode(pixels), rtol=1e-6)
    np.testing.assert_allclose(runner.decode(latents, tiles), runner.decode(latents), rtol=1e-6)
