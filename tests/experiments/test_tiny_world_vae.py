"""The VAE as it is trained is the published one: same numbers, published latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.tiny_world import autoencoder, train_vae
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.testing.compare import assert_close
from pusa_jax.training.state import OptimizerConfig
from pusa_jax.weights.leaves import assemble

pytestmark = pytest.mark.long

MEAN = np.linspace(-1, 1, 16, dtype=np.float32)
STD = np.linspace(0.5, 2, 16, dtype=np.float32)


@pytest.fixture(scope="module")
def params():
    """Start values, disturbed so that every trained value matters."""
    rng = np.random.default_rng(0)
    return {
        path: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)
        for path, x in autoencoder.start_values(0).items()
    }


@pytest.fixture(scope="module")
def published(params):
    leaves = autoencoder.published_leaves(params, MEAN, STD)
    leaves = {path: jnp.asarray(x) for path, x in leaves.items()}
    return assemble(lambda: vae.WanVAE(VAEConfig(dim=8), rngs=nnx.Rngs(0)), leaves)


@pytest.fixture(scope="module")
def clip():
    return jax.random.uniform(jax.random.key(0), (1, 5, 16, 16, 3), minval=-1, maxval=1)


def test_whole_clips_are_encoded_as_chunk_by_chunk(params, published, clip):
    trained = assemble(autoencoder.trained_vae, params)
    mean, _ = jax.jit(autoencoder.posterior)(trained, clip)
    latents = jax.jit(vae.encode)(published, clip)
    assert_close(latents, (np.asarray(mean) - MEAN) / STD, 1e-5)


def test_whole_clips_are_decoded_as_chunk_by_chunk(params, published):
    codes = np.asarray(jax.random.normal(jax.random.key(1), (1, 2, 2, 2, 16)))
    trained = assemble(autoencoder.trained_vae, params)
    whole = jax.jit(autoencoder.reconstruction)(trained, codes)
    assert_close(jax.jit(vae.decode)(published, (codes - MEAN) / STD), whole, 1e-5)


def test_a_paired_convolution_is_a_convolution_with_its_gradients():
    x = jax.random.normal(jax.random.key(2), (2, 4, 6, 3))
    kernel = jax.random.normal(jax.random.key(3), (3, 3, 3, 5))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    pairs, straight = (
        jax.jit(lambda *a, f=f: (*jax.vjp(f, *a)[1](jnp.sin(f(*a))), f(*a)))(x, kernel)
        for f in (autoencoder.paired_conv, plain)
    )
    for ours, theirs in zip(pairs, straight, strict=True):
        assert_close(ours, theirs, 1e-6)


def test_a_picture_takes_the_place_of_one_later_frame_in_every_other_clip(monkeypatch):
    def means(vae, video):
        return video.mean((2, 3), keepdims=True), None

    monkeypatch.setattr(autoencoder, "posterior", means)
    video = jax.random.uniform(jax.random.key(4), (4, 9, 2, 2, 3))
    codes = jnp.zeros((4, 3, 1, 1, 3))
    network, places = nnx.eval_shape(autoencoder.trained_vae), set()
    for i in range(8):
        mixed = autoencoder._with_a_picture(network, codes, video, jax.random.key(i))
        clips, frames = np.nonzero(np.asarray(mixed).any((2, 3, 4)))
        assert clips.tolist() == [0, 2] and len({*frames}) == 1
        place = int(frames[0])
        assert_close(mixed[::2, place], means(network, video)[0][::2, 4 * place], 1e-6)
        places.add(place)
    assert places == {1, 2}


def test_a_run_goes_on_where_it_was_stopped_and_spares_what_is_frozen(monkeypatch, tmp_path):
    def distance(params, video, key, losses):
        error = sum(jnp.sum(jnp.square(x - 3)) for x in params.values())
        return error, {"squared": error, "divergence": error}

    monkeypatch.setattr(train_vae, "loss_of", distance)
    run = train_vae.VAERun(
        phases=(train_vae.Phase(steps=4, batch=1, frames=1, size=32),),
        optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=0, ema_decay=0.5),
        frozen=("encoder",),
        decay_steps=4,
    )

    def trained(folder):
        start = {"encoder/kernel": jnp.ones(2), "decoder/kernel": jnp.ones(2)}
        return train_vae.train_vae(run, tmp_path / folder, start)

    straight = trained("straight")
    with monkeypatch.context() as stopping:
        stopping.setattr(train_vae.StopRequest, "reached", lambda self, step: step == 2)
        assert trained("stopped") is None
    for leaves in (trained("stopped"), trained("stopped")):
        assert jax.tree.all(jax.tree.map(np.array_equal, leaves, straight))
    assert straight["encoder/kernel"].tolist() == [1, 1]
    assert (straight["decoder/kernel"] > 1.05).all()
