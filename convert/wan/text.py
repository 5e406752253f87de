"""Rule tables of the UMT5 encoder: Wan's own names and those of transformers' UMT5EncoderModel."""

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
    (
        "pos_embedding.embedding",
        "layer.0.SelfAttention.relative_attention_bias",
        "pos_embedding/embedding",
        SAME,
    ),
    ("norm2", "layer.1.layer_norm", "norm2/scale", SAME),
    ("ffn.gate.0", "layer.1.DenseReluDense.wi_0", "ffn/gate/kernel", LINEAR),
    ("ffn.fc1", "layer.1.DenseReluDense.wi_1", "ffn/fc1/kernel", LINEAR),
    ("ffn.fc2", "layer.1.DenseReluDense.wo", "ffn/fc2/kernel", LINEAR),
)
"""Name in a block of the original, of transformers, leaf in a block here, layout."""

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
        *(
            Rule(f"blocks.{{i}}.{name}.weight", f"blocks/{leaf}", layout)
            for name, _, leaf, layout in _PER_LAYER
        ),
        Rule("norm.weight", "norm/scale"),
    ]


def transformers_rules(config: TextConfig) -> list[Rule]:
    """Table of the `text_encoder` folder of the Diffusers layout; see `TRANSFORMERS_IGNORED`."""
    return [
        Rule("shared.weight", "token_embedding/embedding"),
        *(
            Rule(f"encoder.block.{{i}}.{name}.weight", f"blocks/{leaf}", layout)
            for _, name, leaf, layout in _PER_LAYER
        ),
        Rule("encoder.final_layer_norm.weight", "norm/scale"),
    ]


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a UMT5 checkpoint uses; None if it is no UMT5 encoder."""
    if "token_embedding.weight" in source.tensors:
        return "original"
    return "diffusers" if "shared.weight" in source.tensors else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> TextConfig:
    """Infers the configuration from the tensors' shapes and transformers' `config.json`.

    Args:
      source: checkpoint in either layout.
      published: content of config.json; the original layout has none and needs none.

    Raises:
      ValueError: no UMT5 encoder, or config.json says something else than the tensors.
    """
    layout, published = layout_of(source), published or {}
    if layout is None:
        raise ValueError("no UMT5 encoder: there is no tensor token_embedding.weight.")
    blocks, column = ("blocks", 0) if layout == "original" else ("encoder.block", 1)
    names = {row[2]: f"{blocks}.0.{row[column]}.weight" for row in _PER_LAYER}
    embedding = "token_embedding.weight" if layout == "original" else "shared.weight"
    pattern = re.compile(re.escape(blocks) + r"\.\d+\.")
    vocab, dim = shape_of(source, embedding, 2)
    num_buckets, num_heads = shape_of(source, names["pos_embedding/embedding"], 2)
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
        max_distance=positive(
            published, "relative_attention_max_distance", TextConfig.max_distance
        ),
        eps=positive(published, "layer_norm_epsilon", TextConfig.eps),
    )
