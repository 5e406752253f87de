"""Rule tables of the UMT5 encoder: Wan's own names and those of transformers' UMT5EncoderModel."""

from convert.tables import LINEAR, SAME, Rule, Transform
from pusa_jax.models.wan.config import TextConfig

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
}
"""Tensors of the transformers layout that are not read, with the reason."""


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
