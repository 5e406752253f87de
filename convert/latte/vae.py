"""Rule table of the autoencoder of Stable Diffusion 1 as Diffusers names it, and its configuration.

Files of its age call the layers of attention query, key, value and proj_attn, today's call them
to_q, to_k, to_v and to_out.0; their weights are matrices or 1x1 convolutions. All are read, today's
names and matrices are written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pusa_jax.convert.files.config_json import check_agreement, positive
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import LINEAR, SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.convert.transforms import CONV2D, POINT2D
from pusa_jax.models.latte.config import VAEConfig

ATTENTION = (
    ("to_q", "query", "q"),
    ("to_k", "key", "k"),
    ("to_v", "value", "v"),
    ("to_out.0", "proj_attn", "o"),
)
"""Layers of attention: today's name, the former one, path here."""

EXPECTED = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""Entries of config.json that must be so where they are there and not null."""


def _layer(name: str, path: str, transform: Transform) -> list[Rule]:
    return [
        Rule(f"{name}.weight", f"{path}/kernel", transform),
        Rule(f"{name}.bias", f"{path}/bias"),
    ]


def _norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}.weight", f"{path}/scale"), Rule(f"{name}.bias", f"{path}/bias")]


def _residual(name: str, path: str, *, has_shortcut: bool = False) -> list[Rule]:
    rules = [rule for n in "12" for rule in _norm(f"{name}.norm{n}", f"{path}/norm{n}")]
    for n in "12":
        rules += _layer(f"{name}.conv{n}", f"{path}/conv{n}", CONV2D)
    if has_shortcut:
        rules += _layer(f"{name}.conv_shortcut", f"{path}/shortcut", POINT2D)
    return rules


def _attention(name: str, path: str) -> Iterator[Rule]:
    yield from _norm(f"{name}.group_norm", f"{path}/norm")
    for today, former, layer in ATTENTION:
        for leaf, transforms in (("kernel", (LINEAR, POINT2D)), ("bias", (SAME,))):
            what, target = {"kernel": "weight"}.get(leaf, leaf), f"{path}/{layer}/{leaf}"
            first, *others = (
                Rule(f"{name}.{stem}.{what}", target, transform)
                for stem in (today, former)
                for transform in transforms
            )
            yield Rule(first.source, target, first.transform, others=tuple(others))


def _middle(name: str, path: str, first: int) -> Iterator[Rule]:
    yield from _residual(f"{name}.mid_block.resnets.0", f"{path}/layers/{first}")
    yield from _attention(f"{name}.mid_block.attentions.0", f"{path}/layers/{first + 1}")
    yield from _residual(f"{name}.mid_block.resnets.1", f"{path}/layers/{first + 2}")


def _stages(
    name: str, path: str, first: int, widths: tuple[int, ...], blocks: int
) -> Iterator[Rule]:
    """Residual blocks at each size, and what leads from one size to the next.

    Args:
      name: of the stages, with their number as `{}`.
      path: of encoder or decoder.
      first: number of the first layer.
      widths: channels of the stages, in their order.
      blocks: in each stage.
    """
    sampler = "downsamplers" if "down" in name else "upsamplers"
    layer, into = first, widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            where, here = f"{name.format(stage)}.resnets.{block}", f"{path}/layers/{layer}"
            yield from _residual(where, here, has_shortcut=into != width)
            layer, into = layer + 1, width
        if stage < len(widths) - 1:
            where = f"{name.format(stage)}.{sampler}.0.conv"
            yield from _layer(where, f"{path}/layers/{layer}/conv", CONV2D)
            layer += 1


def diffusers_rules(config: VAEConfig) -> list[Rule]:
    """Table of the `vae` folder of Stable Diffusion 1 and of `stabilityai/sd-vae-ft-*`."""
    widths, blocks = config.block_out_channels, config.layers_per_block
    inner = len(widths) * (blocks + 1) - 1
    rules = [
        *_layer("quant_conv", "quantise", POINT2D),
        *_layer("post_quant_conv", "unquantise", POINT2D),
        *_stages("encoder.down_blocks.{}", "encoder", 0, widths, blocks),
        *_middle("encoder", "encoder", inner),
        *_middle("decoder", "decoder", 0),
        *_stages("decoder.up_blocks.{}", "decoder", 3, widths[::-1], blocks + 1),
    ]
    for part in ("encoder", "decoder"):
        rules += _layer(f"{part}.conv_in", f"{part}/conv_in", CONV2D)
        rules += _norm(f"{part}.conv_norm_out", f"{part}/norm_out")
        rules += _layer(f"{part}.conv_out", f"{part}/conv_out", CONV2D)
    return rules


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a checkpoint uses; None if it is no such autoencoder."""
    first = source.tensors.get("encoder.conv_in.weight")
    is_it = "quant_conv.weight" in source.tensors and first is not None and len(first.shape) == 4
    return "diffusers" if is_it else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> VAEConfig:
    """Infers the configuration from the tensors' shapes and Diffusers' `config.json`.

    Args:
      source: checkpoint.
      published: content of config.json; may be missing: groups of the norms and scale are then
        those of Stable Diffusion 1.

    Raises:
      ValueError: no such autoencoder, or config.json says something else than the tensors or what
        is not supported.
    """
    published = published or {}
    if layout_of(source) is None:
        raise ValueError("no AutoencoderKL of pictures: there is no tensor quant_conv.weight.")
    names = source.tensors

    def count(pattern: str) -> int:
        """How many numbers there are from 0 on without a gap."""
        return next(i for i in range(len(names) + 1) if pattern.format(i) not in names)

    resnet = "encoder.down_blocks.{}.resnets.0.conv1.weight"
    widths = tuple(shape_of(source, resnet.format(i), 4)[0] for i in range(count(resnet)))
    blocks = count("encoder.down_blocks.0.resnets.{}.conv1.weight")
    z_dim = shape_of(source, "post_quant_conv.weight", 4)[0]
    stated = {
        "block_out_channels": list(widths),
        "layers_per_block": blocks,
        "latent_channels": z_dim,
    }
    check_agreement(published, stated)
    for key, wanted in EXPECTED.items():
        if published.get(key) not in (None, wanted):
            raise ValueError(
                f"config.json has {key}={published[key]!r:.40}, only {wanted!r} is supported."
            )
    return VAEConfig(
        block_out_channels=widths,
        layers_per_block=blocks,
        z_dim=z_dim,
        norm_num_groups=positive(published, "norm_num_groups", VAEConfig.norm_num_groups),
        scaling_factor=positive(published, "scaling_factor", VAEConfig.scaling_factor),
    )
