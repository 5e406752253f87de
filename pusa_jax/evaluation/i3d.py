"""Inception-I3D (arXiv 1705.07750): the network whose features FVD compares.

uint8 --224 x 224, [-1, 1]--> stem --pool--> 3b 3c --pool--> 4b .. 4f --pool--> 5b 5c
      --mean over 2 x 7 x 7--> head --mean over time--> 400 scores before the softmax

That is `i3d_torchscript.pt` of StyleGAN-V called with rescale=True, resize=True and
return_features=True, a copy of TF-Hub's `i3d-kinetics-400`. Convolutions and pools are padded as
TensorFlow's SAME pads them: in time ports differ where the number of frames is no multiple of 8.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, UInt8

Clips = Float[Array, "B T H W C"]

SIZE = 224
"""Pixels of height and width that the published network sees."""

SHRINKS = 32
"""Pixels of height and width per place of the last features."""

LEAST_FRAMES = 9
"""Frames of which two places in time are left, as many as the last mean covers."""

EPS = 1e-3
"""Of the normalisation, as TensorFlow's."""

_EXACT = jax.lax.Precision.HIGHEST
"""Parity: StyleGAN-V switches TF32 off for its metrics."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class I3DConfig:
    """Channel sizes.

    Attributes:
      stem: of the three convolutions before the first block.
      mixed: block -> of its six convolutions: one; two; two; and the one behind a pool.
      classes: scores.
      size: pixels of height and width that clips are brought to, a multiple of 32.
    """

    stem: tuple[int, int, int] = (64, 64, 192)
    mixed: tuple[tuple[str, tuple[int, int, int, int, int, int]], ...] = (
        ("3b", (64, 96, 128, 16, 32, 32)),
        ("3c", (128, 128, 192, 32, 96, 64)),
        ("4b", (192, 96, 208, 16, 48, 64)),
        ("4c", (160, 112, 224, 24, 64, 64)),
        ("4d", (128, 128, 256, 24, 64, 64)),
        ("4e", (112, 144, 288, 32, 64, 64)),
        ("4f", (256, 160, 320, 32, 128, 128)),
        ("5b", (256, 160, 320, 32, 128, 128)),
        ("5c", (384, 192, 384, 48, 128, 128)),
    )
    classes: int = 400
    size: int = SIZE

    @classmethod
    def of_channels(cls, channels: Mapping[str, int], size: int = SIZE) -> "I3DConfig":
        """The configuration of a file, see `convert.i3d.channels_of`."""
        blocks: dict[str, list[int]] = {}
        for leaf, number in channels.items():
            if leaf.startswith("mixed/"):
                blocks.setdefault(leaf.split("/")[1], []).append(number)
        a, b, c = (number for leaf, number in channels.items() if leaf.startswith("stem/"))
        mixed = tuple((name, (s[0], s[1], s[2], s[3], s[4], s[5])) for name, s in blocks.items())
        return cls(stem=(a, b, c), mixed=mixed, classes=channels["head"], size=size)


class Norm(nnx.Module):
    """Normalisation by the statistics of training, which are weights here."""

    def __init__(self, dim: int):
        self.scale, self.bias = nnx.Param(jnp.ones(dim)), nnx.Param(jnp.zeros(dim))
        self.mean, self.variance = nnx.Param(jnp.zeros(dim)), nnx.Param(jnp.ones(dim))

    def __call__(self, x: Clips) -> Clips:
        """Normalises each channel."""
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPS)
        shift = self.bias[...] - self.mean[...] * gain
        return x * gain.reshape(1, 1, 1, 1, -1) + shift.reshape(1, 1, 1, 1, -1)


class Unit(nnx.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            into, out, (kernel,) * 3, strides=stride, use_bias=False, precision=_EXACT, rngs=rngs
        )
        self.norm = Norm(out)

    def __call__(self, x: Clips) -> Float[Array, "B t h w O"]:
        """Applies the three."""
        return jax.nn.relu(self.norm(self.conv(x)))


class Mixed(nnx.Module):
    """Inception block: four views of the same input side by side."""

    def __init__(self, into: int, out: tuple[int, int, int, int, int, int], *, rngs: nnx.Rngs):
        self.b0 = Unit(into, out[0], 1, rngs=rngs)
        self.b1a, self.b1b = Unit(into, out[1], 1, rngs=rngs), Unit(out[1], out[2], 3, rngs=rngs)
        self.b2a, self.b2b = Unit(into, out[3], 1, rngs=rngs), Unit(out[3], out[4], 3, rngs=rngs)
        self.b3b = Unit(into, out[5], 1, rngs=rngs)

    def __call__(self, x: Clips) -> Float[Array, "B T H W O"]:
        """Channels are those of the four views, in order."""
        views = (
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(_pooled(x, (3, 3, 3), (1, 1, 1))),
        )
        return jnp.concatenate(views, axis=-1)


_POOLS = {
    "1a": ((1, 3, 3), (1, 2, 2)),
    "2c": ((1, 3, 3), (1, 2, 2)),
    "3c": ((3, 3, 3), (2, 2, 2)),
    "4f": ((2, 2, 2), (2, 2, 2)),
}
"""Layer -> window and steps of the pool behind it."""


class I3D(nnx.Module):
    """The network."""

    def __init__(self, config: I3DConfig, *, rngs: nnx.Rngs):
        a, b, c = config.stem
        self.size = config.size
        self.stem = nnx.Dict(
            {
                "1a": Unit(3, a, 7, 2, rngs=rngs),
                "2b": Unit(a, b, 1, rngs=rngs),
                "2c": Unit(b, c, 3, rngs=rngs),
            }
        )
        self.mixed, dim = nnx.Dict(), c
        for name, channels in config.mixed:
            self.mixed[name] = Mixed(dim, channels, rngs=rngs)
            dim = channels[0] + channels[2] + channels[4] + channels[5]
        self.head = nnx.Conv(dim, config.classes, (1, 1, 1), precision=_EXACT, rngs=rngs)

    def __call__(self, frames: UInt8[Array, "B T H W 3"]) -> Float32[Array, "B classes"]:
        """Scores before the softmax.

        Args:
          frames: RGB of any size, at least 9 in time.
        """
        x = prepared(frames, self.size)
        for layers in (self.stem, self.mixed):
            for name, layer in layers.items():
                x = layer(x)
                if name in _POOLS:
                    x = _pooled(x, *_POOLS[name])
        places = self.size // SHRINKS
        x = nnx.avg_pool(x, (2, places, places), (1, 1, 1), "VALID")
        return self.head(x).mean(axis=(1, 2, 3))


def build(config: I3DConfig, *, rngs: nnx.Rngs) -> I3D:
    """The network of a configuration."""
    return I3D(config, rngs=rngs)


def prepared(frames: UInt8[Array, "B T H W 3"], size: int) -> Float32[Array, "B T {size} {size} 3"]:
    """Frames as the network sees them: resized, and 0 .. 255 brought to [-1, 1]."""
    down, across = (jnp.asarray(_resizing(n, size)) for n in frames.shape[2:4])
    x = frames.astype(jnp.float32)
    x = jnp.einsum("ph,bthwc->btpwc", down, x, precision=_EXACT)
    x = jnp.einsum("qw,btpwc->btpqc", across, x, precision=_EXACT)
    return x / 255 * 2 - 1


def _resizing(size: int, wanted: int) -> Float32[np.ndarray, "{wanted} {size}"]:
    """Weights of linear interpolation between the centres of pixels, without blurring first.

    Parity: `torch.nn.functional.interpolate` with align_corners=False, its places in float32.
    """
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(wanted)
    places = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + half) - half, 0)
    low = places.astype(np.int64)
    share = (places - low).astype(np.float32)
    weights, rows = np.zeros((wanted, size), np.float32), np.arange(wanted)
    np.add.at(weights, (rows, low), 1 - share)
    np.add.at(weights, (rows, np.minimum(low + 1, size - 1)), share)
    return weights


def _pooled(
    x: Clips, window: tuple[int, int, int], steps: tuple[int, int, int]
) -> Float[Array, "B t h w C"]:
    """Largest values; all are at least 0, so that padding is never one of them."""
    return nnx.max_pool(x, window, steps, "SAME")
