"""The image autoencoder beside the installed Diffusers, on random weights."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.latte import vae as tables
from pusa_jax.convert.tables import load
from pusa_jax.models.latte import vae
from pusa_jax.testing.compare import assert_close
from pusa_jax.testing.latte import VAE, write_latte
from pusa_jax.weights.leaves import assemble, shapes_of

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.torch, pytest.mark.long]


def ours(source, settings):
    config = tables.config_from_source(source, settings)
    rules = tables.diffusers_rules(config)

    def build():
        return vae.FrameVAE(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, rules, shapes_of(build)))


def randomised(peer):
    torch.manual_seed(0)
    for name, parameter in peer.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        torch.nn.init.normal_(parameter, std=spread)
        if "norm" in name and name.endswith("weight"):
            parameter.data.add_(1.0)
    return peer.eval()


@pytest.fixture(scope="module")
def pair():
    peer = randomised(
        diffusers.AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=(8, 16, 12),
            layers_per_block=2,
            norm_num_groups=4,
        )
    )
    tensors = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}
    return peer, ours(ArrayTensors(tensors), dict(peer.config))


def test_the_posterior_agrees(pair):
    peer, model = pair
    frames = np.random.default_rng(1).uniform(-1, 1, (3, 3, 16, 24)).astype(np.float32)
    with torch.no_grad():
        posterior = peer.encode(torch.from_numpy(frames)).latent_dist
    found = jax.jit(vae.moments)(model, np.moveaxis(frames, 1, -1)[None])
    for x, expected in zip(found, (posterior.mean, posterior.logvar), strict=True):
        assert_close(np.moveaxis(x[0], -1, 1), expected.numpy(), 5e-6)


def test_pixels_agree(pair):
    peer, model = pair
    latents = np.random.default_rng(2).standard_normal((3, 4, 4, 6)).astype(np.float32)
    with torch.no_grad():
        expected = peer.decode(torch.from_numpy(latents / 0.18215)).sample.numpy()
    found, _ = jax.jit(vae.decode_first)(model, np.moveaxis(latents, 1, -1)[None])
    assert_close(np.moveaxis(found[0], -1, 1), expected, 5e-6)


def test_diffusers_loads_what_is_written_and_agrees(tmp_path):
    write_latte(tmp_path)
    folder = tmp_path / "vae"
    peer = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    assert peer.config.scaling_factor == VAE.scaling_factor
    settings = json.loads((folder / "config.json").read_text())
    model = ours(open_tensors(folder / "diffusion_pytorch_model.safetensors"), settings)
    latents = np.random.default_rng(3).standard_normal((1, 4, 2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peer.decode(torch.from_numpy(latents / VAE.scaling_factor)).sample.numpy()
    found, _ = jax.jit(vae.decode_first)(model, np.moveaxis(latents, 1, -1)[None])
    assert_close(np.moveaxis(found[0], -1, 1), expected, 5e-6)
