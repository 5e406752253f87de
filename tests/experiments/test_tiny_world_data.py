"""The world as a dataset, and its captions as features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.tiny_world import autoencoder, denoiser, publish
from pusa_jax.demo.world import NARROW, WIDE, draw
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.weights.leaves import assemble

pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")
from experiments.tiny_world.codec import trained_leaves
from experiments.tiny_world.dataset import encode_world
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data.encoded import EncodedClips
from pusa_jax.inference.text_encoder import TextEncoder

pytestmark = pytest.mark.long

SHORT = dataclasses.replace(NARROW, num_frames=9)
DIT = dataclasses.replace(denoiser.DIT, num_layers=1)
MEAN, STD = np.zeros(16, np.float32), np.ones(16, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    leaves = autoencoder.published_leaves(autoencoder.start_values(0), MEAN, STD)
    publish.write_vae(folder, leaves)
    publish.write_text_encoder(folder, denoiser.TEXT_LEN)
    publish.write_dit(folder, denoiser.start_values(DIT, jax.random.key(0)), DIT)
    return folder


@pytest.fixture(scope="module")
def text_encoder(folder):
    return TextEncoder(ModelFolder(folder), "float32")


def test_every_word_of_every_caption_is_one_token(text_encoder):
    caption = draw(WIDE, 0, 0).caption
    assert len(text_encoder(caption)) == len(caption.split()) + 1 <= denoiser.TEXT_LEN


def test_captions_are_told_apart_at_every_word_that_differs(text_encoder):
    words = "a red circle moves right on black".split()
    for i, other in ((1, "blue"), (2, "square"), (4, "left"), (6, "white")):
        changed = [*words[:i], other, *words[i + 1 :]]
        gap = text_encoder(" ".join(words)) - text_encoder(" ".join(changed))
        assert np.linalg.norm(gap[i]) > 1


def test_the_order_of_words_matters(text_encoder):
    one, other = text_encoder("a red circle on white"), text_encoder("a white circle on red")
    assert np.linalg.norm(one[1] - other[4]) > 0.5


def test_a_dataset_of_the_world_is_read_like_any_other(folder, tmp_path):
    def encode(videos):
        return np.full((len(videos), 3, 6, 6, 16), videos.mean() / 100, np.float32)

    encode_world(folder, tmp_path / "clips", SHORT, 3, encode_clips=encode)
    clips = EncodedClips(tmp_path / "clips")
    assert len(clips) == 3
    assert clips.clip_shape == (3, 6, 6, 16)
    assert clips.text_shape == (denoiser.TEXT_LEN, 64)
    assert clips.example(1).caption == draw(SHORT, 0, 1).caption
    assert clips.no_text.shape == clips.text_shape


def test_a_vae_that_looks_back_at_full_resolution_is_refused():
    leaves = autoencoder.published_leaves(autoencoder.start_values(0), MEAN, STD)
    assert set(trained_leaves(leaves)) == set(autoencoder.start_values(0))
    leaves["encoder/conv1/kernel"][0] += 1
    with pytest.raises(ValueError, match="encoder/conv1/kernel looks at earlier frames"):
        trained_leaves(leaves)


def test_a_fresh_dit_hands_most_of_its_input_through():
    leaves = denoiser.start_values(DIT, jax.random.key(0))
    model = assemble(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)), leaves)
    x = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 16))
    text = model.project_text(jnp.zeros((1, 12, 64)))
    made = np.asarray(jax.jit(model)(x, jnp.full((1, 1), 1000.0), text)).ravel()
    assert np.corrcoef(made, np.asarray(x).ravel())[0, 1] > 0.9
