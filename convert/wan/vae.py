"""Rule tables of the Wan VAEs for their two naming schemes, and their configuration.

The leaves are taken from the model; a naming scheme is a list of rewrites of their module paths.
No layers are stacked: hardly two of them have the same shape in a row. The model numbers the layers
of all stages in a row; the published names of Wan2.2 count stages and the layers in each.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pusa_jax.convert.files.config_json import check_agreement
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.convert.transforms import CONV2D
from pusa_jax.models.wan.config import (
    WAN21_LATENT_MEAN,
    WAN21_LATENT_STD,
    WAN22_LATENT_MEAN,
    WAN22_LATENT_STD,
    VAEConfig,
)
from pusa_jax.models.wan.family import build_vae
from pusa_jax.weights.leaves import shapes_for

Rewrite = tuple[str, str | Callable[[re.Match[str]], str]]
Rewrites = Sequence[Rewrite]
"""Rows (regular expression, replacement), all applied one after the other."""

CONV3D = Transform(lambda w: w.transpose(2, 3, 4, 1, 0), lambda k: k.transpose(4, 3, 0, 1, 2))
"""Weight (out, in, t, h, w) <-> kernel [t, h, w, in, out]."""


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
"""All but the stages that this scheme nests; see `_nested`."""


def original_rules(config: VAEConfig) -> list[Rule]:
    """Table of `Wan2.1_VAE.pth` or `Wan2.2_VAE.pth`."""
    nested = []
    if config.has_stage_shortcuts:
        nested = [
            _nested(config, f"/{side}/{{stage}}/{side}/{{layer}}/")
            for side in ("downsamples", "upsamples")
        ]
    return _rules(config, [*nested, *_ORIGINAL])


def diffusers_rules(config: VAEConfig) -> list[Rule]:
    """Table of the `vae` folder of the Diffusers layout."""
    up = "/up_blocks/{stage}/resnets/{layer}/"
    if not config.has_stage_shortcuts:
        nested = [_nested(config, up, last="/up_blocks/{stage}/upsamplers/0/")]
    else:
        down = "/down_blocks/{stage}/resnets/{layer}/"
        nested = [
            _nested(config, down, last="/down_blocks/{stage}/downsampler/"),
            _nested(config, up, last="/up_blocks/{stage}/upsampler/"),
        ]
    return _rules(config, [*nested, *_DIFFUSERS])


def _nested(config: VAEConfig, name: str, last: str | None = None) -> Rewrite:
    """Rewrites the flat number of a layer as its stage and its number in that.

    Args:
      config: tells how many layers a stage has; the decoder's have one more.
      name: of a layer, with {stage} and {layer}; also tells whose layers, by its first word.
      last: of the layer that changes the resolution, if it has another name than the others.
    """
    is_up = name.startswith("/up")
    blocks = config.num_res_blocks + is_up

    def rename(match: re.Match[str]) -> str:
        stage, layer = divmod(int(match[1]), blocks + 1)
        template = name if layer < blocks else last or name
        return template.format(stage=stage, layer=layer)

    return rf"/{'up' if is_up else 'down'}samples/(\d+)/", rename


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Landmarks:
    """Names in one scheme that tell an architecture.

    Attributes:
      first: first layer.
      stages: what the encoder's layers are numbered under.
      block: first convolution of a residual block in them.
      last: last layer before the decoder.
      gain: of the decoder's last norm.
    """

    first: str
    stages: str
    block: str
    last: str
    gain: str


_LANDMARKS: Mapping[Layout, _Landmarks] = {
    "original": _Landmarks(
        first="encoder.conv1.weight",
        stages="encoder.downsamples",
        block="residual.2.weight",
        last="conv2.weight",
        gain="decoder.head.0.gamma",
    ),
    "diffusers": _Landmarks(
        first="encoder.conv_in.weight",
        stages="encoder.down_blocks",
        block="conv1.weight",
        last="post_quant_conv.weight",
        gain="decoder.norm_out.gamma",
    ),
}

_STATISTICS: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    16: (WAN21_LATENT_MEAN, WAN21_LATENT_STD),
    48: (WAN22_LATENT_MEAN, WAN22_LATENT_STD),
}
"""Latent channels of a published model -> their mean and standard deviation."""


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a VAE checkpoint uses; None if it is no VAE of the Wan family."""
    for layout, marks in _LANDMARKS.items():
        first = source.tensors.get(marks.first)
        # AutoencoderKL has the same names; its kernels have four axes.
        if first is not None and len(first.shape) != 4 and marks.last in source.tensors:
            return layout
    return None


def wan21_layout_of(source: TensorSource) -> Layout | None:
    """As `layout_of`, but only for the architecture of Wan2.1."""
    layout = layout_of(source)
    return None if layout is None or _is_nested(source, layout) else layout


def wan22_layout_of(source: TensorSource) -> Layout | None:
    """As `layout_of`, but only for the architecture of Wan2.2."""
    layout = layout_of(source)
    return layout if layout is not None and _is_nested(source, layout) else None


def _is_nested(source: TensorSource, layout: Layout) -> bool:
    """Whether the encoder's layers are numbered within stages, which they are in Wan2.2."""
    pattern = re.compile(re.escape(_LANDMARKS[layout].stages) + r"\.\d+\.(downsamples|resnets)\.")
    return any(map(pattern.match, source.tensors))


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> VAEConfig:
    """Infers the configuration from the tensors' shapes and the `config.json` beside them.

    Args:
      source: checkpoint in either layout.
      published: content of Diffusers' config.json; may be missing if there are 16 or 48 latent
        channels, which are then taken to be those of the published models.

    Raises:
      ValueError: no Wan VAE, or config.json says something else than the tensors.
    """
    layout, published = layout_of(source), dict(published or {})
    if layout is None:
        raise ValueError("no VAE of the Wan family: there is no tensor encoder.conv1.weight.")
    marks = _LANDMARKS[layout]
    dim, colours, *_ = shape_of(source, marks.first, 5)
    patch_size = math.isqrt(colours // 3)
    if colours != 3 * patch_size**2:
        raise ValueError(
            f"{marks.first} takes {colours} channels; those of a Wan VAE are 3 for each pixel of a "
            "square, 3 or 12 in the published ones."
        )
    stages, halvings = _stages(source, marks)
    fields: dict[str, Any] = {
        "base_dim": dim,
        "decoder_base_dim": shape_of(source, marks.gain, 4)[0] * dim // stages[0][-1],
        "z_dim": shape_of(source, marks.last, 5)[0],
        "dim_mult": [widths[-1] // dim for widths in stages],
        "num_res_blocks": len(stages[0]),
        "temperal_downsample": halvings,
        "in_channels": colours,
        "out_channels": colours,
        "patch_size": patch_size,
        "is_residual": _is_nested(source, layout),
    }
    same = {"decoder_base_dim": dim, "patch_size": 1}  # what null stands for
    said = {key: same.get(key) if x is None else x for key, x in published.items()}
    check_agreement(said, fields)
    mean, std = _STATISTICS.get(fields["z_dim"], ((), ()))
    return VAEConfig(
        dim=dim,
        decoder_dim=None if fields["decoder_base_dim"] == dim else fields["decoder_base_dim"],
        z_dim=fields["z_dim"],
        dim_mult=tuple(fields["dim_mult"]),
        num_res_blocks=fields["num_res_blocks"],
        temporal_downsample=tuple(halvings),
        patch_size=patch_size,
        has_stage_shortcuts=fields["is_residual"],
        latent_mean=_statistic("latents_mean", mean, published, fields["z_dim"]),
        latent_std=_statistic("latents_std", std, published, fields["z_dim"]),
    )


def _stages(source: TensorSource, marks: _Landmarks) -> tuple[list[list[int]], list[bool]]:
    """Widths of the blocks of each stage of the encoder; after which stages time is halved."""
    inner = r"(?:downsamples|resnets)\.(\d+)|downsampler"
    pattern = re.compile(rf"{re.escape(marks.stages)}\.(\d+)\.(?:(?:{inner})\.)?")
    found = [m for name in source.tensors if (m := pattern.match(name))]
    # The layer that halves comes last in its stage, where it has no number.
    order = {m[0]: (int(m[1]), float(m[2] or "inf")) for m in found}
    stages, halvings = [[]], []
    for layer in sorted(order, key=order.__getitem__):
        if f"{layer}resample.1.weight" in source.tensors:
            halvings.append(f"{layer}time_conv.weight" in source.tensors)
            stages.append([])
        else:
            stages[-1].append(shape_of(source, f"{layer}{marks.block}", 5)[0])
    if not all(stages):
        raise ValueError(f"each stage of {marks.stages} must have blocks, got {stages}.")
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
