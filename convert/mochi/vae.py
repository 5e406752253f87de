"""Rule tables of Mochi's autoencoder for its two naming schemes, and its configuration.

The original keeps encoder and decoder in files of their own, whose tensors are named here behind
`encoder.` and `decoder.`; Diffusers has one file for both and splits queries, keys and values.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pusa_jax.convert.files.config_json import check_agreement
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import LINEAR, SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.models.mochi.config import VAEConfig

CONV = Transform(lambda w: w.transpose(2, 3, 4, 1, 0), lambda k: k.transpose(4, 3, 0, 1, 2))
"""Conv weight (O, C, t, h, w) <-> kernel (t, h, w, C, O)."""
POINT = Transform(lambda w: w[:, :, 0, 0, 0].T, lambda k: k.T[:, :, None, None, None])
"""Conv weight (O, C, 1, 1, 1) <-> kernel of a linear layer (C, O)."""


def cells(factor: int) -> Transform:
    """Conv weight (O, C, t, 2, 2), whose windows do not overlap <-> kernel (t 2 2 C, O)."""
    return Transform(
        lambda w: w.transpose(2, 3, 4, 1, 0).reshape(-1, w.shape[0]),
        lambda k: k.reshape(factor, 2, 2, -1, k.shape[-1]).transpose(4, 3, 0, 1, 2),
    )


Block = tuple[str, str, str]
"""Of a residual block: the original's name, Diffusers' name, path here."""


def _blocks(config: VAEConfig) -> Iterator[tuple[Block, str | None, str | None]]:
    """Residual blocks; those of the encoder with Diffusers' names of its attention and norm."""
    counts, layer = config.num_res_blocks, 0
    last = len(counts) - 1
    for stage, count in enumerate(counts):
        layer += 0 < stage < last  # the halving
        for i in range(count):
            ours = f"encoder/layers/{layer}"
            layer += 1
            if stage == 0:
                names = f"encoder.layers.{1 + i}", f"encoder.block_in.resnets.{i}", ours
                yield names, None, None
                continue
            if stage < last:
                original = f"encoder.layers.{counts[0] + stage}.layers.{1 + i}"
                where = f"encoder.down_blocks.{stage - 1}"
            else:
                original = f"encoder.layers.{counts[0] + last + i}"
                where = "encoder.block_out"
            block = (original, f"{where}.resnets.{i}", ours)
            yield block, f"{where}.attentions.{i}", f"{where}.norms.{i}"
    layer = 0
    for stage, count in enumerate(counts[::-1]):
        for i in range(count):
            if stage == 0:
                names = f"decoder.blocks.0.{1 + i}", f"decoder.block_in.resnets.{i}"
            elif stage < last:
                names = (
                    f"decoder.blocks.{stage}.blocks.{i}",
                    f"decoder.up_blocks.{stage - 1}.resnets.{i}",
                )
            else:
                names = f"decoder.blocks.{last}.{i}", f"decoder.block_out.resnets.{i}"
            yield (*names, f"decoder/layers/{layer}"), None, None
            layer += 1
        layer += 0 < stage < last  # the doubling


def _residual(block: Block, column: int, is_inside: bool) -> Iterator[Rule]:
    name, path = block[column], block[2] + ("/residual" if is_inside else "")
    parts = (
        ("stack.0", "norm1.norm_layer", "norm1/scale", SAME),
        ("stack.2", "conv1.conv", "conv1/kernel", CONV),
        ("stack.3", "norm2.norm_layer", "norm2/scale", SAME),
        ("stack.5", "conv2.conv", "conv2/kernel", CONV),
    )
    for *names, leaf, transform in parts:
        yield Rule(f"{name}.{names[column]}.weight", f"{path}/{leaf}", transform)
        bias = leaf.split("/")[0] + "/bias"
        yield Rule(f"{name}.{names[column]}.bias", f"{path}/{bias}")


def _attention(block: Block, attention: str, norm: str, column: int) -> Iterator[Rule]:
    path = f"{block[2]}/attention"
    if column == 0:
        name = f"{block[0]}.attn_block"
        norm, out = f"{name}.norm", f"{name}.attn.out"
        for i, layer in enumerate("qkv"):
            yield Rule(f"{name}.attn.qkv.weight", f"{path}/{layer}/kernel", LINEAR, (i, 3))
    else:
        norm, out = f"{norm}.norm_layer", f"{attention}.to_out.0"
        for layer in "qkv":
            yield Rule(f"{attention}.to_{layer}.weight", f"{path}/{layer}/kernel", LINEAR)
    yield Rule(f"{norm}.weight", f"{path}/norm/scale")
    yield Rule(f"{norm}.bias", f"{path}/norm/bias")
    yield Rule(f"{out}.weight", f"{path}/o/kernel", LINEAR)
    yield Rule(f"{out}.bias", f"{path}/o/bias")


def _resampling(config: VAEConfig) -> Iterator[tuple[str, str, str, Transform]]:
    """Halvings and doublings: the original's name, Diffusers' name, path here, layout."""
    counts, factors = config.num_res_blocks, config.temporal_factors
    down, up = counts[0], counts[-1] + counts[-2]
    for i, factor in enumerate(factors):
        yield (
            f"encoder.layers.{counts[0] + 1 + i}.layers.0",
            f"encoder.down_blocks.{i}.conv_in.conv",
            f"encoder/layers/{down}/conv",
            cells(factor),
        )
        yield (
            f"decoder.blocks.{1 + i}.proj",
            f"decoder.up_blocks.{i}.proj",
            f"decoder/layers/{up}/proj",
            LINEAR,
        )
        down += counts[1 + i] + 1
        up += counts[-3 - i] + 1


def _rules(config: VAEConfig, column: int) -> list[Rule]:
    ends = (
        ("encoder.layers.0", "encoder.proj_in", "encoder/conv_in", LINEAR),
        ("decoder.blocks.0.0", "decoder.conv_in", "decoder/conv_in", POINT),
        ("decoder.output_proj", "decoder.proj_out", "decoder/conv_out", LINEAR),
        *_resampling(config),
    )
    rules = []
    for *names, path, transform in ends:
        rules.append(Rule(f"{names[column]}.weight", f"{path}/kernel", transform))
        rules.append(Rule(f"{names[column]}.bias", f"{path}/bias"))
    for block, attention, norm in _blocks(config):
        rules += _residual(block, column, is_inside=attention is not None)
        if attention is not None and norm is not None:
            rules += _attention(block, attention, norm, column)
    norm = ("encoder.output_norm", "encoder.norm_out.norm_layer")[column]
    out = ("encoder.output_proj", "encoder.proj_out")[column]
    return [
        *rules,
        Rule(f"{norm}.weight", "encoder/norm_out/scale"),
        Rule(f"{norm}.bias", "encoder/norm_out/bias"),
        Rule(f"{out}.weight", "encoder/conv_out/kernel", LINEAR),
    ]


def original_rules(config: VAEConfig) -> list[Rule]:
    """Table of `encoder.safetensors` and `decoder.safetensors` of genmo/mochi-1-preview."""
    return _rules(config, 0)


def diffusers_rules(config: VAEConfig) -> list[Rule]:
    """Table of the `vae` folder of genmo/mochi-1-preview."""
    return _rules(config, 1)


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a checkpoint uses; None if it is no autoencoder of Mochi."""
    if "encoder.layers.0.weight" in source.tensors:
        return "original"
    is_diffusers = "encoder.block_in.resnets.0.conv1.conv.weight" in source.tensors
    return "diffusers" if is_diffusers else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> VAEConfig:
    """Infers the configuration from the tensors' shapes and Diffusers' `config.json`.

    Raises:
      ValueError: no autoencoder of Mochi, or config.json says something else than the tensors.
    """
    layout, published = layout_of(source), published or {}
    if layout is None:
        raise ValueError("no autoencoder of Mochi: there is no tensor encoder.layers.0.weight.")
    names = source.tensors

    def count(pattern: str, start: int = 0) -> int:
        """How many numbers there are from `start` on without a gap."""
        return next(i for i in range(len(names) + 1) if pattern.format(start + i) not in names)

    if layout == "original":
        block, half = "encoder.layers.{}.stack.0.weight", "encoder.layers.{}.layers.0.weight"
        first = count(block, 1)
        halves = [half.format(1 + first + i) for i in range(count(half, 1 + first))]
        inner = [count(name.replace("0.weight", "{}.stack.0.weight"), 1) for name in halves]
        last = count(block, 1 + first + len(halves))
        top, conv_in, up = "decoder.blocks.0.0", "encoder.layers.0", "decoder.blocks.{}.proj"
        above = 1
    else:
        norm = "resnets.{}.norm1.norm_layer.weight"
        half = "encoder.down_blocks.{}.conv_in.conv.weight"
        first = count(f"encoder.block_in.{norm}")
        halves = [half.format(i) for i in range(count(half))]
        inner = [count(name.replace("conv_in.conv.weight", norm)) for name in halves]
        last = count(f"encoder.block_out.{norm}")
        top, conv_in, up = "decoder.conv_in", "encoder.proj_in", "decoder.up_blocks.{}.proj"
        above = 0
    halvings = [shape_of(source, name, 5) for name in halves]
    factors = tuple(shape[2] for shape in halvings)
    width, z_dim, *_ = shape_of(source, f"{top}.weight", 5)
    decoder_dims = [width]
    for i, factor in enumerate(factors[::-1]):
        rows, _ = shape_of(source, f"{up.format(above + i)}.weight", 2)
        decoder_dims.insert(0, rows // (4 * factor))
    fields: dict[str, Any] = {
        "encoder_dims": (
            shape_of(source, f"{conv_in}.weight", 2)[0],
            *(shape[0] for shape in halvings),
        ),
        "decoder_dims": tuple(decoder_dims),
        "num_res_blocks": (first, *inner, last),
        "temporal_factors": factors,
        "z_dim": z_dim,
    }
    stated = {
        "encoder_block_out_channels": list(fields["encoder_dims"]),
        "decoder_block_out_channels": list(fields["decoder_dims"]),
        "layers_per_block": list(fields["num_res_blocks"]),
        "temporal_expansions": list(factors),
        "latent_channels": z_dim,
    }
    check_agreement(published, stated)
    for field, key in (("latent_mean", "latents_mean"), ("latent_std", "latents_std")):
        if published.get(key) is not None:
            fields[field] = tuple(float(x) for x in published[key])
    return VAEConfig(**fields)
