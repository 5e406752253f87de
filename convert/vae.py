"""Rule tables of the Wan-VAE 2.1 under its two naming schemes.

The leaves are taken from the model; a naming scheme is a list of rewrites of their module paths.
No layers are stacked: hardly two of them have the same shape in a row.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx

from convert.tables import SAME, Rule, Transform
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.tree import shapes_of

Rewrites = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Rows (regular expression, replacement), all applied one after the other."""

CONV3D = Transform(lambda w: w.transpose(2, 3, 4, 1, 0), lambda k: k.transpose(4, 3, 0, 1, 2))
"""Weight (out, in, t, h, w) <-> kernel [t, h, w, in, out]."""

CONV2D = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1))
"""Weight (out, in, h, w) <-> kernel [h, w, in, out]."""


def _pointwise(axes: int) -> Transform:
    def to_leaf(tensor: np.ndarray) -> np.ndarray:
        return tensor.reshape(tensor.shape[: tensor.ndim - axes]).transpose()

    def to_torch(leaf: np.ndarray) -> np.ndarray:
        return leaf.transpose().reshape(*leaf.shape[::-1], *(1,) * axes)

    return Transform(to_leaf, to_torch)


POINTWISE3D = _pointwise(3)
"""Weight (out, in, 1, 1, 1) <-> kernel [in, out]; gain (c, 1, 1, 1) <-> scale [c]."""

POINTWISE2D = _pointwise(2)
"""Weight (out, in, 1, 1) <-> kernel [in, out]; gain (c, 1, 1) <-> scale [c]."""

_LEAF_NAMES = {"kernel": "weight", "bias": "bias", "scale": "gamma"}

_ORIGINAL: Rewrites = (
    (r"(/\d+)/norm1$", r"\1/residual/0"),
    (r"(/\d+)/conv1$", r"\1/residual/2"),
    (r"(/\d+)/norm2$", r"\1/residual/3"),
    (r"(/\d+)/conv2$", r"\1/residual/6"),
    (r"/resample$", "/resample/1"),
    (r"/head/norm$", "/head/0"),
    (r"/head/conv$", "/head/2"),
)

_DIFFUSERS: Rewrites = (
    (r"^conv1$", "quant_conv"),
    (r"^conv2$", "post_quant_conv"),
    (r"^(\w+)/conv1$", r"\1/conv_in"),
    (r"/head/norm$", "/norm_out"),
    (r"/head/conv$", "/conv_out"),
    (r"/middle/0/", "/mid_block/resnets/0/"),
    (r"/middle/1/", "/mid_block/attentions/0/"),
    (r"/middle/2/", "/mid_block/resnets/1/"),
    (r"/downsamples/", "/down_blocks/"),
    (r"/shortcut$", "/conv_shortcut"),
    (r"/resample$", "/resample/1"),
)
"""All but the decoder's stages, which this scheme nests; see `_nested`."""


def original_rules(config: VAEConfig) -> list[Rule]:
    """Table of `Wan2.1_VAE.pth`."""
    return _rules(config, _ORIGINAL)


def diffusers_rules(config: VAEConfig) -> list[Rule]:
    """Table of the `vae` folder of the Diffusers layout."""
    return _rules(config, [(r"/upsamples/(\d+)/", _nested(config)), *_DIFFUSERS])


def _nested(config: VAEConfig) -> Callable[[re.Match[str]], str]:
    """Flat number of a decoder layer -> stage and number in it; the last of a stage upsamples."""
    blocks = config.num_res_blocks + 1

    def rename(match: re.Match[str]) -> str:
        stage, layer = divmod(int(match[1]), blocks + 1)
        inner = f"resnets/{layer}" if layer < blocks else "upsamplers/0"
        return f"/up_blocks/{stage}/{inner}/"

    return rename


def _rules(config: VAEConfig, rewrites: Rewrites) -> list[Rule]:
    leaves = shapes_of(lambda: WanVAE(config, rngs=nnx.Rngs(0)))
    return [
        Rule(_source(path, rewrites), path, _transform(path, len(leaf.shape)))
        for path, leaf in leaves.items()
    ]


def _source(path: str, rewrites: Rewrites) -> str:
    module, leaf = path.rsplit("/", 1)
    for pattern, replacement in rewrites:
        module = re.sub(pattern, replacement, module)
    return f"{module}/{_LEAF_NAMES[leaf]}".replace("/", ".")


def _transform(path: str, rank: int) -> Transform:
    if path.endswith("/bias"):
        return SAME
    if "/middle/1/" in path:  # attention works on single frames
        return POINTWISE2D
    return {5: CONV3D, 4: CONV2D, 2: POINTWISE3D, 1: POINTWISE3D}[rank]
