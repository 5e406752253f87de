"""Rule tables of the Wan-VAE 2.1 for its two naming schemes, and its configuration.

The leaves are taken from the model; a naming scheme is a list of rewrites of their module paths.
No layers are stacked: hardly two of them have the same shape in a row.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pusa_jax.convert.files.config_json import check_agreement
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.models.wan.config import WAN21_LATENT_MEAN, WAN21_LATENT_STD, VAEConfig
from pusa_jax.models.wan.family import build_vae
from pusa_jax.weights.leaves import shapes_for

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
    leaves = shapes_for(build_vae, config)
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


_LANDMARKS: Mapping[Layout, tuple[str, str, str, str]] = {
    "original": ("encoder.conv1", "encoder.downsamples", "residual.2", "conv2"),
    "diffusers": ("encoder.conv_in", "encoder.down_blocks", "conv1", "post_quant_conv"),
}
"""First layer; numbered layers of the encoder; convolution of a block in them; last layer before
the decoder."""


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a VAE checkpoint uses; None if it is no VAE of the Wan family."""
    for layout, (first, *_, last) in _LANDMARKS.items():
        if f"{first}.weight" in source.tensors and f"{last}.weight" in source.tensors:
            return layout
    return None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> VAEConfig:
    """Infers the configuration from the tensors' shapes and the `config.json` beside them.

    Args:
      source: checkpoint in either layout.
      published: content of Diffusers' config.json; may be missing if there are 16 latent channels,
        which are then taken to be those of the published model.

    Raises:
      ValueError: no Wan-VAE 2.1, or config.json says something else than the tensors.
    """
    layout, published = layout_of(source), published or {}
    if layout is None:
        raise ValueError("no VAE of the Wan family: there is no tensor encoder.conv1.weight.")
    first, numbered, block, last = _LANDMARKS[layout]
    dim, colours, *_ = shape_of(source, f"{first}.weight", 5)
    if colours != 3:
        raise ValueError(
            f"{first}.weight takes {colours} channels, the Wan2.1 VAE takes 3; the Wan2.2 VAE is "
            "not supported."
        )
    stages, halvings = _stages(source, numbered, block)
    fields: dict[str, Any] = {
        "base_dim": dim,
        "z_dim": shape_of(source, f"{last}.weight", 5)[0],
        "dim_mult": [widths[-1] // dim for widths in stages],
        "num_res_blocks": len(stages[0]),
        "temperal_downsample": halvings,
    }
    check_agreement(published, fields)
    return VAEConfig(
        dim=dim,
        z_dim=fields["z_dim"],
        dim_mult=tuple(fields["dim_mult"]),
        num_res_blocks=fields["num_res_blocks"],
        temporal_downsample=tuple(halvings),
        latent_mean=_statistic("latents_mean", WAN21_LATENT_MEAN, published, fields["z_dim"]),
        latent_std=_statistic("latents_std", WAN21_LATENT_STD, published, fields["z_dim"]),
    )


def _stages(source: TensorSource, numbered: str, block: str) -> tuple[list[list[int]], list[bool]]:
    """Widths of the blocks of each stage of the encoder; after which stages time is halved."""
    pattern = re.compile(re.escape(numbered) + r"\.(\d+)\.")
    layers = {int(m[1]) for name in source.tensors if (m := pattern.match(name))}
    stages, halvings = [[]], []
    for layer in (f"{numbered}.{number}" for number in sorted(layers)):
        if f"{layer}.resample.1.weight" in source.tensors:
            halvings.append(f"{layer}.time_conv.weight" in source.tensors)
            stages.append([])
        else:
            stages[-1].append(shape_of(source, f"{layer}.{block}.weight", 5)[0])
    if not all(stages):
        raise ValueError(f"each stage of {numbered} must have blocks, got {stages}.")
    return stages, halvings


def _statistic(
    key: str, default: tuple[float, ...], published: Mapping[str, Any], z_dim: int
) -> tuple[float, ...]:
    values = published.get(key, default)
    numbers = isinstance(values, list | tuple) and all(isinstance(x, int | float) for x in values)
    if not numbers or len(values) != z_dim:
        raise ValueError(
            f"a VAE of {z_dim} latent channels needs a config.json with as many numbers in {key}, "
            f"got {values if key in published else 'none'!r:.40}."
        )
    return tuple(float(x) for x in values)
