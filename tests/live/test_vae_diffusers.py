"""The VAE beside the installed Diffusers, on random configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.vae import config_from_source, diffusers_rules
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.testing.compare import assert_close, from_house_layout, to_house_layout
from pusa_jax.weights.leaves import assemble, leaves_of, shapes_of

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers")

LIMIT = 5e-5
ENCODE_FIRST, ENCODE_NEXT = jax.jit(vae.encode_first), jax.jit(vae.encode_next)
DECODE_FIRST, DECODE_NEXT = jax.jit(vae.decode_first), jax.jit(vae.decode_next)


def random_config(seed: int) -> VAEConfig:
    rng = np.random.default_rng(seed)
    z_dim = int(rng.integers(2, 7))
    return VAEConfig(
        dim=int(rng.integers(2, 5)) * 2,
        z_dim=z_dim,
        dim_mult=(1, *(int(m) for m in rng.permutation([2, 2, 4]))),
        num_res_blocks=int(rng.integers(1, 3)),
        latent_mean=tuple(rng.normal(size=z_dim).round(4).tolist()),
        latent_std=tuple(rng.uniform(0.5, 3, z_dim).round(4).tolist()),
    )


CONFIGS = [random_config(seed) for seed in (1, 2)]


def peer_of(config: VAEConfig, seed: int = 0):
    """Diffusers' autoencoder with random weights, also in its norms."""
    peer = diffusers.AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latent_mean),
        latents_std=list(config.latent_std),
    ).eval()
    torch.manual_seed(seed)
    for name, parameter in peer.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        else:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return peer


def ours_from(peer, config: VAEConfig) -> vae.WanVAE:
    def build():
        return vae.WanVAE(config, rngs=nnx.Rngs(0))

    source = ArrayTensors({name: tensor.numpy() for name, tensor in peer.state_dict().items()})
    return assemble(build, load(source, diffusers_rules(config), shapes_of(build)))


def encode(model, video):
    """Step by step, so that clips of all lengths share their compiled programs."""
    part, cache = ENCODE_FIRST(model, video[:, :1])
    parts = [part]
    for start in range(1, video.shape[1], 4):
        part, cache = ENCODE_NEXT(model, video[:, start : start + 4], cache)
        parts.append(part)
    return jnp.concatenate(parts, axis=1)


def decode(model, latents):
    part, cache = DECODE_FIRST(model, latents[:, :1])
    parts = [part]
    for i in range(1, latents.shape[1]):
        part, cache = DECODE_NEXT(model, latents[:, i : i + 1], cache)
        parts.append(part)
    return jnp.concatenate(parts, axis=1)


def statistics(peer):
    shape = (1, -1, 1, 1, 1)
    return (
        torch.tensor(x).reshape(shape) for x in (peer.config.latents_mean, peer.config.latents_std)
    )


@pytest.mark.parametrize(
    ("config", "batch", "height", "width"), [(CONFIGS[0], 1, 16, 24), (CONFIGS[1], 2, 24, 16)]
)
def test_encoding_and_decoding_equal_those_of_diffusers(config, batch, height, width):
    peer = peer_of(config)
    ours, (mean, std) = ours_from(peer, config), statistics(peer)
    rng = np.random.default_rng(0)
    for frames in (1, 5, 13):
        video = rng.uniform(-1, 1, (batch, 3, frames, height, width)).astype(np.float32)
        size = (batch, config.z_dim, (frames + 3) // 4, height // 8, width // 8)
        latents = rng.standard_normal(size).astype(np.float32)
        with torch.no_grad():
            encoded = (peer.encode(torch.tensor(video)).latent_dist.mode() - mean) / std
            decoded = peer.decode(torch.tensor(latents) * std + mean).sample
        actual = from_house_layout(encode(ours, to_house_layout(video)))
        assert_close(actual, encoded.numpy(), LIMIT, f"latents of {frames} frames")
        actual = from_house_layout(jnp.clip(decode(ours, to_house_layout(latents)), -1, 1))
        assert_close(actual, decoded.numpy(), LIMIT, f"{frames} decoded frames")


def test_whole_clips_without_surplus_frames_as_in_diffusers():
    config = CONFIGS[0]
    peer = peer_of(config)
    ours, (mean, std) = ours_from(peer, config), statistics(peer)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, 7, 16, 16)).astype(np.float32)
    with torch.no_grad():
        encoded = (peer.encode(torch.tensor(video)).latent_dist.mode() - mean) / std
        decoded = peer.decode(encoded * std + mean).sample
    latents = jax.jit(vae.encode)(ours, to_house_layout(video))
    assert latents.shape[1] == 2  # of the 7 frames the last 2 fill no chunk
    assert_close(from_house_layout(latents), encoded.numpy(), LIMIT)
    clip = jnp.clip(jax.jit(vae.decode)(ours, latents), -1, 1)
    assert_close(from_house_layout(clip), decoded.numpy(), LIMIT)


def test_exported_weights_load_into_diffusers_unchanged():
    config = CONFIGS[1]
    peer, other = peer_of(config), peer_of(config, seed=1)
    exported = dict(dump(leaves_of(ours_from(peer, config)), diffusers_rules(config)))
    other.load_state_dict({k: torch.tensor(v) for k, v in exported.items()})
    for name, tensor in peer.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_the_published_architecture_has_the_tensors_that_diffusers_expects():
    with torch.device("meta"):
        peer = diffusers.AutoencoderKLWan()
    expected = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    config = VAEConfig()
    shapes = shapes_of(lambda: vae.WanVAE(config, rngs=nnx.Rngs(0)))
    rules = diffusers_rules(config)
    ours = {rule.source: rule.tensor_shape(shapes[rule.target].shape) for rule in rules}
    assert ours == expected


def test_the_config_of_diffusers_is_understood():
    config = CONFIGS[0]
    peer = peer_of(config)
    source = ArrayTensors({name: tensor.numpy() for name, tensor in peer.state_dict().items()})
    assert config_from_source(source, dict(peer.config)) == config
