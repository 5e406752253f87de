"""The tiny Wan-VAE as it is trained: start values, the loss, and the way into the published layout.

The published network is trained unchanged but for two savings where pixels are many. Convolutions
at full and half resolution see the newest frame only: their two earlier temporal taps stay zero and
are not computed. Motion is coded at a quarter of the resolution and below, where time is halved.
And of the residual blocks at full resolution the encoder's two and the decoder's last stay what
they are at the start, the identity. `published_leaves` puts back what was left out.

The start values matter: with flax's or torch's own the network learns several times slower. See
`start_values`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from pusa_jax.models.conv import CausalConv
from pusa_jax.models.wan.config import WAN21_LATENT_MEAN, WAN21_LATENT_STD, VAEConfig
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.models.wan.vae_layers import Cache, Frames, ResidualBlock
from pusa_jax.training.state import Params
from pusa_jax.weights.leaves import assemble, shapes_of

VAE = VAEConfig(
    dim=8, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16
)  # its latents are put on the published scale afterwards
"""The network; 924 491 parameters."""

LOG_VARIANCE = -6.0
"""At the start: little noise, or the decoder learns to ignore the latents."""


class NewestFrameConv(nnx.Module):
    """A causal 3x3x3 convolution whose taps on earlier frames are zero.

    Attributes:
      kernel: [1, height, width, in, out]; the newest frame's tap.
      bias: [out].
    """

    def __init__(self, whole: CausalConv):
        self.kernel = nnx.Param(whole.kernel[...][-1:])
        self.bias = nnx.Param(whole.bias[...])

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B T H W O"], Cache]:
        """Needs no cache."""
        b, t = x.shape[:2]
        y = paired_conv(x.reshape(b * t, *x.shape[2:]), self.kernel[...][0])
        return y.reshape(b, t, *y.shape[1:]) + self.bias[...].reshape(1, 1, 1, 1, -1), cache


class Identity(nnx.Module):
    """A layer that hands frames on."""

    def __call__(self, x: Frames, cache: Cache) -> tuple[Frames, Cache]:
        """Needs no cache."""
        return x, cache


def trained_vae() -> WanVAE:
    """The network without what is left out in training."""
    vae = WanVAE(VAE, rngs=nnx.Rngs(0))
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    blocks = VAE.num_res_blocks
    for i in range(blocks):
        encoder.downsamples[i] = Identity()
    decoder.upsamples[-1] = Identity()
    outer = [*encoder.downsamples[: 2 * blocks + 1], *decoder.upsamples[2 * (blocks + 2) :]]
    for block in outer:
        if isinstance(block, ResidualBlock):
            replaced: Any = block
            replaced.conv1 = NewestFrameConv(block.conv1)
            replaced.conv2 = NewestFrameConv(block.conv2)
    encoder.conv1 = NewestFrameConv(encoder.conv1)
    decoder.head.conv = NewestFrameConv(decoder.head.conv)
    return vae


@jax.custom_vjp
def paired_conv(
    x: Float[Array, "N H W C"], kernel: Float[Array, "kh kw C O"]
) -> Float[Array, "N H W O"]:
    """3x3 convolution with zeros around, for few channels and an even width.

    Two neighbours are computed as one pixel of twice the channels, from a window of 3x4: a third of
    the products is with zeros, but on CPUs so few channels leave the units idle otherwise.
    """
    b, h, w, _ = x.shape
    side = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2)]
    y = _conv(x, jnp.concatenate(side, axis=-1), (1, 2))
    return y.reshape(b, h, w, -1)


def _forward(x, kernel):
    return paired_conv(x, kernel), (x, kernel)


def _backward(saved, slope):
    x, kernel = saved
    back = paired_conv(slope, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    _, by_kernel = jax.vjp(lambda kernel: _conv(x, kernel, (1, 1)), kernel)
    return back, *by_kernel(slope)


paired_conv.defvjp(_forward, _backward)


def _conv(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def start_values(seed: int) -> Params:
    """Leaves to train from.

    Biases zero; kernels normal with variance 1 / fan-in, on the newest frame's tap only; residual
    branches end in zeros; the temporal convolutions hand frames on as they are.
    """
    return {path: jnp.asarray(x) for path, x in _start_values(trained_vae, seed).items()}


def _start_values(build: Callable[[], WanVAE], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    leaves: dict[str, np.ndarray] = {}
    for path, leaf in shapes_of(build).items():
        value = np.zeros(leaf.shape, np.float32)
        if path.endswith("/scale"):
            value += 1
        elif "time_conv/kernel" in path:
            into, out = leaf.shape[-2:]
            # Downwards the window's middle is the newer frame of a pair; upwards, its last.
            value[1 if into == out else -1, 0, 0] = np.tile(np.eye(into), (1, out // into))
        elif path.endswith("/kernel") and not _ends_branch(path):
            newest = value[-1] if value.ndim == 5 else value
            fan_in = np.prod(newest.shape[:-1])
            newest[...] = rng.standard_normal(newest.shape) / np.sqrt(fan_in)
        leaves[path] = value
    z = VAE.z_dim
    leaves["conv1/kernel"][:, z:] = 0
    leaves["conv1/bias"][z:] = LOG_VARIANCE
    return leaves


def _ends_branch(path: str) -> bool:
    is_block = "samples/" in path or "middle/" in path
    return is_block and path.endswith(("/conv2/kernel", "/proj/kernel"))


def posterior(
    vae: WanVAE, video: Float[Array, "B T H W 3"]
) -> tuple[Float[Array, "B F h w C"], Float[Array, "B F h w C"]]:
    """Mean and log variance of the latents of a whole clip, in two chunks."""
    codes = vae.conv1(_in_two_chunks(vae.encoder, video))
    mean, log_variance = jnp.split(codes, 2, axis=-1)
    return mean, jnp.clip(log_variance, -20, 10)


def reconstruction(vae: WanVAE, codes: Float[Array, "B F h w C"]) -> Float[Array, "B T H W 3"]:
    """Decodes a whole clip in two chunks."""
    return _in_two_chunks(vae.decoder, vae.conv2(codes))


def _in_two_chunks(network, x: Array) -> Array:
    """The first frame, then all others at once: what chunk after chunk gives, in less time."""
    cache: Cache = None
    first, cache = network(x[:, :1], cache)
    if x.shape[1] == 1:
        return first
    return jnp.concatenate([first, network(x[:, 1:], cache)[0]], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
    """Weights of the parts of the loss; RGB lies in [-1, 1].

    Attributes:
      kl: of the mean divergence of a latent value from the unit normal distribution.
      pictures: whether in half of the clips one of the later latent frames is that of a picture,
        the last it stands for, as tasks that give a last frame have it.
    """

    kl: float = 1e-4
    pictures: bool = False


def loss_of(
    params: Params, video: Array, key: Key[Array, ""], losses: Losses
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean absolute and squared error of the reconstruction, and the divergence."""
    vae = assemble(trained_vae, params)
    video = video.astype(jnp.float32) / 127.5 - 1
    mean, log_variance = posterior(vae, video)
    codes = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    if losses.pictures:
        codes = _with_a_picture(vae, codes, video, key)
    error = reconstruction(vae, codes) - video
    squared = jnp.mean(jnp.square(error))
    divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
    total = jnp.mean(jnp.abs(error)) + squared + losses.kl * divergence
    return total, {"squared": squared, "divergence": divergence}


def _with_a_picture(vae: WanVAE, codes: Array, video: Array, key: Key[Array, ""]) -> Array:
    """Every other clip gets the latent frame of a picture in place of one after the first."""
    place = jax.random.randint(jax.random.fold_in(key, 1), (), 1, codes.shape[1])
    picture = jax.lax.dynamic_slice_in_dim(video, place * VAE.temporal_stride, 1, axis=1)
    is_clip = jnp.arange(codes.shape[0]) % 2 == 0
    is_there = is_clip[:, None] & (jnp.arange(codes.shape[1]) == place)[None]
    return jnp.where(is_there[:, :, None, None, None], posterior(vae, picture)[0], codes)


def psnr(squared: Float[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """Decibels of a mean squared error of RGB in [-1, 1]."""
    return 10 * np.log10(4 / np.maximum(np.asarray(squared), 1e-12))


def published_leaves(
    params: Mapping[str, Array], mean: Float[np.ndarray, " C"], std: Float[np.ndarray, " C"]
) -> dict[str, np.ndarray]:
    """Leaves of the published network, whose latents have the published mean and deviation.

    The scale goes into the two 1x1x1 convolutions on either side of the latents, so that what reads
    the published files needs no constants of ours.

    Args:
      params: as trained.
      mean: of each latent channel over the data.
      std: standard deviation of each channel.
    """
    leaves = _start_values(lambda: WanVAE(VAE, rngs=nnx.Rngs(0)), 0)
    for path, trained in params.items():
        earlier = leaves[path].shape[0] - trained.shape[0]
        zeros = [(earlier, 0)] + [(0, 0)] * (trained.ndim - 1)
        leaves[path] = np.pad(np.asarray(trained, np.float32), zeros)
    gain = np.asarray(WAN21_LATENT_STD, np.float32) / std
    shift = np.asarray(WAN21_LATENT_MEAN, np.float32) - gain * mean
    z = VAE.z_dim
    leaves["conv1/kernel"][:, :z] *= gain
    leaves["conv1/bias"][:z] = leaves["conv1/bias"][:z] * gain + shift
    leaves["conv1/bias"][z:] += 2 * np.log(gain)
    leaves["conv2/bias"] -= (shift / gain) @ leaves["conv2/kernel"]
    leaves["conv2/kernel"] /= gain[:, None]
    return leaves
