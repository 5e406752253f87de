"""The VAEs beside the installed Diffusers, on random configurations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.published import diffusers_vae
from pusa_jax.convert.wan.vae import config_from_source, diffusers_rules, wan22_layout_of
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.models.family import Tiles
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import WAN22_VAE, VAEConfig
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import assert_close, from_house_layout, to_house_layout
from pusa_jax.weights.leaves import assemble, leaves_of, shapes_of

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.torch, pytest.mark.long]

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


def random_wan22_config(seed: int) -> VAEConfig:
    config = random_config(seed)
    return dataclasses.replace(
        config,
        decoder_dim=config.dim + 2,
        dim_mult=((1, 2, 4, 4), (1, 1, 2, 2))[seed % 2],
        temporal_downsample=((False, True, True), (True, False, True))[seed % 2],
        patch_size=2,
        has_stage_shortcuts=True,
    )


CONFIGS = [random_config(seed) for seed in (1, 2)]
WAN22_CONFIGS = [random_wan22_config(seed) for seed in (3, 4)]


def peer_of(config: VAEConfig, seed: int = 0):
    """Diffusers' autoencoder with random weights, also in its norms."""
    peer = diffusers.AutoencoderKLWan.from_config(diffusers_vae(config)).eval()
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
    ("config", "batch", "height", "width"),
    [
        (CONFIGS[0], 1, 16, 24),
        (CONFIGS[1], 2, 24, 16),
        (WAN22_CONFIGS[0], 1, 32, 48),
        (WAN22_CONFIGS[1], 2, 48, 32),
    ],
)
def test_encoding_and_decoding_equal_those_of_diffusers(config, batch, height, width):
    peer = peer_of(config)
    ours, (mean, std) = ours_from(peer, config), statistics(peer)
    rng = np.random.default_rng(0)
    for frames in (1, 5, 13):
        video = rng.uniform(-1, 1, (batch, 3, frames, height, width)).astype(np.float32)
        cells = (height // config.spatial_stride, width // config.spatial_stride)
        size = (batch, config.z_dim, (frames + 3) // 4, *cells)
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


@pytest.mark.parametrize("config", [CONFIGS[1], WAN22_CONFIGS[1]])
def test_exported_weights_load_into_diffusers_unchanged(config):
    peer, other = peer_of(config), peer_of(config, seed=1)
    exported = dict(dump(leaves_of(ours_from(peer, config)), diffusers_rules(config)))
    other.load_state_dict({k: torch.tensor(v) for k, v in exported.items()})
    for name, tensor in peer.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("config", [VAEConfig(), WAN22_VAE])
def test_the_published_architecture_has_the_tensors_that_diffusers_expects(config):
    with torch.device("meta"):
        peer = diffusers.AutoencoderKLWan.from_config(diffusers_vae(config))
    expected = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    shapes = shapes_of(lambda: vae.WanVAE(config, rngs=nnx.Rngs(0)))
    rules = diffusers_rules(config)
    ours = {rule.source: rule.tensor_shape(shapes[rule.target].shape) for rule in rules}
    assert ours == expected


@pytest.mark.parametrize("config", [CONFIGS[0], *WAN22_CONFIGS])
def test_the_config_of_diffusers_is_understood(config):
    peer = peer_of(config)
    source = ArrayTensors({name: tensor.numpy() for name, tensor in peer.state_dict().items()})
    assert config_from_source(source, dict(peer.config)) == config
    assert wan22_layout_of(source) == ("diffusers" if config.has_stage_shortcuts else None)


def ramps(size: int, tile: int, stride: int, cell: int) -> list[tuple[int, int, np.ndarray]]:
    """Start, stop and weights of the tiles along an axis, by wan.md §3.3, in pixels."""
    found = []
    for start in range(0, size, stride):
        if start and start - stride + tile >= size:
            continue
        stop = min(start + tile, size)
        border = (tile - stride) * cell
        ramp = (np.arange(border) + 1) / border
        weights = np.ones((stop - start) * cell)
        if start:
            weights[:border] = ramp
        if stop < size:
            weights[len(weights) - border :] = ramp[::-1]
        found.append((start * cell, stop * cell, weights))
    return found


def blended(code, x, tiles: Tiles, cells: tuple[int, int], scales: tuple[int, int]):
    """Each tile through the peer by itself, then the weighted mean; x is [B, C, T, H, W]."""
    into, out = scales
    total = weight = 0.0
    rows, columns = (
        [(a // out, b // out, w) for a, b, w in ramps(n, size, stride, out)]
        for n, size, stride in zip(cells, tiles.size, tiles.stride, strict=True)
    )
    for top, bottom, down in rows:
        for left, right, across in columns:
            part = code(x[..., top * into : bottom * into, left * into : right * into])
            share = np.minimum(down[:, None], across[None, :])
            edges = [(top * out, (cells[0] - bottom) * out), (left * out, (cells[1] - right) * out)]
            total = total + np.pad(part * share, [(0, 0)] * 3 + edges)
            weight = weight + np.pad(share, edges)
    return total / weight


def test_tiles_of_wan22_are_those_of_the_peer_blended():
    config, tiles, cells = WAN22_CONFIGS[0], Tiles(size=(3, 4), stride=(2, 2)), (5, 6)
    peer, stride = peer_of(config), config.spatial_stride
    peer.decoder.conv_out.weight.data *= 0.1  # Diffusers clamps tiles, DiffSynth what is blended
    mean, std = statistics(peer)
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (1, 3, 5, *(n * stride for n in cells))).astype(np.float32)
    latents = rng.standard_normal((1, config.z_dim, 2, *cells)).astype(np.float32)

    @torch.no_grad()
    def encode_tile(x):
        return ((peer.encode(torch.tensor(x)).latent_dist.mode() - mean) / std).numpy()

    @torch.no_grad()
    def decode_tile(x):
        return peer.decode(torch.tensor(x) * std + mean).sample.numpy()

    coder = Autoencoder(ours_from(peer, config), WAN21.codec, config)
    actual = from_house_layout(coder.encode(np.asarray(to_house_layout(video)), tiles))
    assert_close(actual, blended(encode_tile, video, tiles, cells, (stride, 1)), LIMIT, "latents")
    actual = from_house_layout(coder.decode(to_house_layout(latents), tiles))
    expected = blended(decode_tile, latents, tiles, cells, (1, stride))
    assert np.abs(expected).max() < 1
    assert_close(actual, expected, LIMIT, "decoded frames")
