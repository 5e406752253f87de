"""Mochi's networks beside the installed Diffusers, on random weights.

Diffusers' decoder drops the first frames of a clip only at the end, the original in every stage: so
the first frames of a video differ, by design.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.mochi import dit as dit_tables
from pusa_jax.convert.mochi import vae as vae_tables
from pusa_jax.convert.tables import load
from pusa_jax.models.mochi import vae
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.testing.compare import (
    assert_close,
    from_house_layout,
    relative_error,
    to_house_layout,
)
from pusa_jax.weights.leaves import assemble, shapes_of

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.torch, pytest.mark.long]


def randomised(peer):
    torch.manual_seed(0)
    for name, parameter in peer.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        torch.nn.init.normal_(parameter, std=spread)
        if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
            parameter.data.add_(1.0)
    return peer.eval()


def ours(peer, tables, build):
    tensors = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}
    source = ArrayTensors(tensors)
    config = tables.config_from_source(source, dict(peer.config))
    rules, make = tables.diffusers_rules(config), lambda: build(config, rngs=nnx.Rngs(0))
    return assemble(make, load(source, rules, shapes_of(make)))


def test_the_transformer_agrees():
    peer = randomised(
        diffusers.MochiTransformer3DModel(
            num_attention_heads=4, attention_head_dim=12, num_layers=3, pooled_projection_dim=32,
            text_embed_dim=24, time_embed_dim=32, max_sequence_length=7,
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 3, 6, 10)).astype(np.float32)
    mask = np.arange(7) < np.asarray([[4], [7]])
    text = rng.standard_normal((2, 7, 24)).astype(np.float32) * mask[..., None]
    timesteps = np.asarray([988.0, 40.0], np.float32)
    with torch.no_grad():
        expected = peer(
            torch.from_numpy(x), torch.from_numpy(text), torch.from_numpy(timesteps),
            torch.from_numpy(mask),
        ).sample.numpy()  # fmt: skip
    dit = ours(peer, dit_tables, MochiDiT)
    run = jax.jit(lambda d, x, t, c: d(x, t, d.prepare_text(c)))
    actual = run(dit, to_house_layout(x), timesteps[:, None], text)
    assert_close(from_house_layout(actual), expected, 1e-5, "clean - noise")


@pytest.fixture(scope="module")
def autoencoders():
    peer = randomised(
        diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 64, 32, 64),
            decoder_block_out_channels=(32, 64, 32, 64),
            layers_per_block=(1, 1, 1, 1, 1),
        )
    )  # fmt: skip
    return peer, ours(peer, vae_tables, vae.MochiVAE)


def test_the_encoder_agrees(autoencoders):
    peer, model = autoencoders
    video = np.random.default_rng(1).uniform(-1, 1, (1, 3, 13, 16, 24)).astype(np.float32)
    with torch.no_grad():
        posterior = peer.encode(torch.from_numpy(video)).latent_dist
    mean, _ = jax.jit(vae.moments)(model, to_house_layout(video))
    assert_close(from_house_layout(mean), posterior.mean.numpy(), 1e-4, "mean")


def test_the_decoder_differs_in_the_first_frames_only(autoencoders):
    peer, model = autoencoders
    latents = np.random.default_rng(2).standard_normal((1, 12, 8, 2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peer.decode(torch.from_numpy(latents)).sample.numpy()
    mean, std = np.asarray([model.config.latent_mean, model.config.latent_std], np.float32)
    normalised = (np.asarray(to_house_layout(latents)) - mean) / std
    actual = from_house_layout(jax.jit(vae.decode)(model, normalised))
    assert actual.shape == expected.shape == (1, 3, 43, 16, 24)
    assert relative_error(actual[:, :, 0], expected[:, :, 0]) > 0.05
    assert_close(actual[:, :, 15:], expected[:, :, 15:], 5e-5, "later frames")
