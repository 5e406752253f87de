"""The image autoencoder as a codec of videos: frames alone, sizes, scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.latte import flops, vae
from pusa_jax.models.latte.config import VAEConfig
from pusa_jax.testing.compare import assert_close, random_module
from pusa_jax.weights.leaves import shapes_of

TINY = VAEConfig(block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
VIDEO = jax.random.uniform(jax.random.key(0), (2, 3, 16, 24, 3), minval=-1)
ENCODE, DECODE, MOMENTS = map(jax.jit, (vae.encode_first, vae.decode_first, vae.moments))


def build(config=TINY):
    return vae.FrameVAE(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model():
    return random_module(build)


def test_the_published_size():
    shapes = shapes_of(lambda: build(VAEConfig()))
    assert sum(leaf.size for leaf in shapes.values()) == 83_653_863
    assert (VAEConfig().spatial_stride, VAEConfig().temporal_stride) == (8, 1)


def test_every_frame_is_coded_alone(model):
    latents, nothing = ENCODE(model, VIDEO)
    assert latents.shape == (2, 3, 2, 3, 4) and nothing is None
    pixels, nothing = DECODE(model, latents)
    assert pixels.shape == VIDEO.shape and nothing is None
    for t in range(3):
        others = jnp.zeros_like(VIDEO).at[:, t].set(VIDEO[:, t])
        np.testing.assert_array_equal(ENCODE(model, others)[0][:, t], latents[:, t])
        others = jnp.zeros_like(latents).at[:, t].set(latents[:, t])
        np.testing.assert_array_equal(DECODE(model, others)[0][:, t], pixels[:, t])
    # Another number of frames is another program: the recordings' own limit.
    one, nothing = jax.jit(vae.encode_next)(model, VIDEO[:, 1:2], None)
    assert_close(one, latents[:, 1:2], 1e-5)
    one, nothing = jax.jit(vae.decode_next)(model, latents[:, 1:2], nothing)
    assert_close(one, pixels[:, 1:2], 1e-5)


def test_latents_are_the_scaled_mean_and_the_log_variance_is_clamped(model):
    mean, log_variance = MOMENTS(model, VIDEO)
    np.testing.assert_array_equal(ENCODE(model, VIDEO)[0], mean * 0.18215)
    far = nnx.clone(model)
    far.quantise.bias[...] = jnp.asarray([0.0] * 4 + [-100.0, 100.0, 0.0, 0.0])
    clamped = MOMENTS(far, VIDEO)[1]
    assert (clamped[..., 0] == -30).all() and (clamped[..., 1] == 20).all()
    assert log_variance.min() > -30 and log_variance.max() < 20


def test_halving_looks_to_the_right_and_below(model):
    """A halved cell (i, j) sees rows 2 i to 2 i + 2, and zeros beyond the last."""
    halve = random_module(lambda: vae.Halve(4, TINY, rngs=nnx.Rngs(0)))
    x = jnp.zeros((1, 1, 6, 6, 4))
    reached = (halve(x.at[0, 0, 2, 5].set(1.0)) - halve(x)).any(-1)[0, 0]
    assert [tuple(map(int, cell)) for cell in jnp.argwhere(reached)] == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_num_groups": 3}, r"multiples of norm_num_groups=3, got \(128, 256, 512, 512\)"),
        ({"block_out_channels": ()}, "block_out_channels must be"),
        ({"scaling_factor": 0.0}, "scaling_factor must be above 0, got 0.0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**changes)


def test_flops_of_decoding_are_those_that_the_compiler_counts():
    config = VAEConfig()
    model = nnx.eval_shape(lambda: build(config))
    latents = np.zeros((1, 1, 32, 32, 4), np.float32)
    analysis = jax.jit(vae.decode_first).lower(model, latents).cost_analysis()
    assert analysis is not None
    per_pixel = analysis["flops"] / 256**2
    assert flops.VAE_DECODE_PER_PIXEL == pytest.approx(per_pixel, rel=0.1)
