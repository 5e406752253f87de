"""Rule tables of T5 encoders, and their configuration from a checkpoint.

UMT5, whose every layer has a table of positions, under Wan's own names and under those of
transformers; T5 v1.1, whose first layer alone has one, under those of transformers.
"""

import re
from collections.abc import Mapping
from typing import Any

from pusa_jax.convert.files.config_json import check_agreement, positive
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import LINEAR, SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.models.t5 import TextConfig

_PER_LAYER: tuple[tuple[str, str, str, Transform], ...] = (
    ("norm1", "layer.0.layer_norm", "norm1/scale", SAME),
    ("attn.q", "layer.0.SelfAttention.q", "attn/q/kernel", LINEAR),
    ("attn.k", "layer.0.SelfAttention.k", "attn/k/kernel", LINEAR),
    ("attn.v", "layer.0.SelfAttention.v", "attn/v/kernel", LINEAR),
    ("attn.o", "layer.0.SelfAttention.o", "attn/o/kernel", LINEAR),
    ("norm2", "layer.1.layer_norm", "norm2/scale", SAME),
    ("ffn.gate.0", "layer.1.DenseReluDense.wi_0", "ffn/gate/kernel", LINEAR),
    ("ffn.fc1", "layer.1.DenseReluDense.wi_1", "ffn/fc1/kernel", LINEAR),
    ("ffn.fc2", "layer.1.DenseReluDense.wo", "ffn/fc2/kernel", LINEAR),
)
"""Name in a block of Wan's file, of transformers, leaf in a block here, layout."""

_POSITIONS = ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias")
"""The table of positions in a block: Wan's name, transformers' name."""

TRANSFORMERS_IGNORED = {
    "encoder.embed_tokens.weight": "a second name of shared.weight, written by some exporters",
    "spiece_model": "the tokenizer, which ComfyUI puts into the file",
    "logit_scale": "of a text encoder of another kind, written by ComfyUI for all of them",
}
"""Tensors of either layout that are not read, with the reason."""


def original_rules(config: TextConfig) -> list[Rule]:
    """Table of `models_t5_umt5-xxl-enc-bf16.pth`; the same for every size of the encoder."""
    return [
        Rule("token_embedding.weight", "token_embedding/embedding"),
        Rule(f"blocks.{{i}}.{_POSITIONS[0]}.weight", "blocks/pos_embedding/embedding"),
        *(
            Rule(f"blocks.{{i}}.{name}.weight", f"blocks/{leaf}", layout)
            for name, _, leaf, layout in _PER_LAYER
        ),
        Rule("norm.weight", "norm/scale"),
    ]


def transformers_rules(config: TextConfig) -> list[Rule]:
    """Table of the `text_encoder` folder of the Diffusers layout; see `TRANSFORMERS_IGNORED`."""
    positions = (
        Rule(f"encoder.block.0.{_POSITIONS[1]}.weight", "pos_embedding/embedding")
        if config.shared_positions
        else Rule(f"encoder.block.{{i}}.{_POSITIONS[1]}.weight", "blocks/pos_embedding/embedding")
    )
    return [
        Rule("shared.weight", "token_embedding/embedding"),
        positions,
        *(
            Rule(f"encoder.block.{{i}}.{name}.weight", f"blocks/{leaf}", layout)
            for _, name, leaf, layout in _PER_LAYER
        ),
        Rule("encoder.final_layer_norm.weight", "norm/scale"),
    ]


def umt5_layout(source: TensorSource) -> Layout | None:
    """Which naming scheme a UMT5 checkpoint uses; None if it is no UMT5 encoder."""
    if "token_embedding.weight" in source.tensors:
        return "original"
    is_umt5 = "shared.weight" in source.tensors and not _shares_positions(source)
    return "diffusers" if is_umt5 else None


def t5_layout(source: TensorSource) -> Layout | None:
    """The naming scheme of a T5 v1.1 checkpoint; None if it is no T5 v1.1 encoder."""
    is_t5 = "shared.weight" in source.tensors and _shares_positions(source)
    return "diffusers" if is_t5 else None


def _shares_positions(source: TensorSource) -> bool:
    """Whether the second layer has no table of its own, in transformers' names."""
    second = "encoder.block.1.layer.0.SelfAttention."
    return f"{second}q.weight" in source.tensors and (
        f"encoder.block.1.{_POSITIONS[1]}.weight" not in source.tensors
    )


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> TextConfig:
    """Infers the configuration from the tensors' shapes and transformers' `config.json`.

    Args:
      source: checkpoint in either layout.
      published: content of config.json; Wan's layout has none and needs none.

    Raises:
      ValueError: no T5 encoder, or config.json says something else than the tensors.
    """
    layout, published = umt5_layout(source) or t5_layout(source), published or {}
    if layout is None:
        raise ValueError("no T5 encoder: there is no tensor token_embedding.weight.")
    blocks, column = ("blocks", 0) if layout == "original" else ("encoder.block", 1)
    names = {row[2]: f"{blocks}.0.{row[column]}.weight" for row in _PER_LAYER}
    embedding = "token_embedding.weight" if layout == "original" else "shared.weight"
    pattern = re.compile(re.escape(blocks) + r"\.\d+\.")
    vocab, dim = shape_of(source, embedding, 2)
    num_buckets, num_heads = shape_of(source, f"{blocks}.0.{_POSITIONS[column]}.weight", 2)
    fields = {
        "vocab_size": vocab,
        "d_model": dim,
        "d_ff": shape_of(source, names["ffn/fc1/kernel"], 2)[0],
        "num_heads": num_heads,
        "num_layers": len({m[0] for name in source.tensors if (m := pattern.match(name))}),
        "relative_attention_num_buckets": num_buckets,
    }
    check_agreement(published, fields)
    return TextConfig(
        vocab=vocab,
        dim=dim,
        dim_attn=shape_of(source, names["attn/q/kernel"], 2)[0],
        dim_ffn=fields["d_ff"],
        num_heads=num_heads,
        num_layers=fields["num_layers"],
        num_buckets=num_buckets,
        shared_positions=layout == "diffusers" and _shares_positions(source),
        max_distance=positive(
            published, "relative_attention_max_distance", TextConfig.max_distance
        ),
        eps=positive(published, "layer_norm_epsilon", TextConfig.eps),
    )
