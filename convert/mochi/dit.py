"""Rule tables of the Mochi DiT for its two naming schemes, and its configuration from a checkpoint.

Genmo's files hold queries, keys and values of a stream in one tensor, and Diffusers' do not; the
halves of a feed-forward's first layer and of the final modulation are swapped between the two. Pusa
V0.5 has the names and shapes of Mochi-1.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from pusa_jax.convert.files.config_json import check_agreement, positive
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import LINEAR, SAME, Rule, TensorSource, Transform, shape_of
from pusa_jax.convert.transforms import patches
from pusa_jax.models.mochi.config import DiTConfig

_ENDS = (
    ("t_embedder.mlp.0", "time_embed.timestep_embedder.linear_1", "time_embedding/up"),
    ("t_embedder.mlp.2", "time_embed.timestep_embedder.linear_2", "time_embedding/down"),
    ("t5_y_embedder.to_q", "time_embed.pooler.to_q", "text_pool/q"),
    ("t5_y_embedder.to_out", "time_embed.pooler.to_out", "text_pool/o"),
    ("t5_yproj", "time_embed.caption_proj", "text_embedding"),
    ("final_layer.linear", "proj_out", "head/linear"),
)
"""Linear layers outside the blocks: (genmo's name, Diffusers' name, path here)."""

Row = tuple[str, str, Transform, tuple[int, int]]
"""Tensor, leaf, layout, part of the tensor."""

WHOLE = (0, 1)


def _halves(name: str, first: str, second: str) -> list[Row]:
    """Two linear layers in one, with biases."""
    return [
        row
        for which, path in enumerate((first, second))
        for row in (
            (f"{name}.weight", f"{path}/kernel", LINEAR, (which, 2)),
            (f"{name}.bias", f"{path}/bias", SAME, (which, 2)),
        )
    ]


def _linear(name: str, path: str) -> list[Row]:
    return [
        (f"{name}.weight", f"{path}/kernel", LINEAR, WHOLE),
        (f"{name}.bias", f"{path}/bias", SAME, WHOLE),
    ]


def _genmo_stream(name: str, path: str, s: str, ends: bool) -> list[Row]:
    """Stream `s`, x or y, of the block `name`."""
    rows = [
        *_linear(f"{name}.mod_{s}", f"{path}/modulation"),
        *(
            (f"{name}.attn.qkv_{s}.weight", f"{path}/{layer}/kernel", LINEAR, (i, 3))
            for i, layer in enumerate("qkv")
        ),
        (f"{name}.attn.q_norm_{s}.weight", f"{path}/norm_q/scale", SAME, WHOLE),
        (f"{name}.attn.k_norm_{s}.weight", f"{path}/norm_k/scale", SAME, WHOLE),
    ]
    if ends:
        return rows
    return [
        *rows,
        *_linear(f"{name}.attn.proj_{s}", f"{path}/o"),
        (f"{name}.mlp_{s}.w1.weight", f"{path}/mlp/gate/kernel", LINEAR, (0, 2)),
        (f"{name}.mlp_{s}.w1.weight", f"{path}/mlp/up/kernel", LINEAR, (1, 2)),
        (f"{name}.mlp_{s}.w2.weight", f"{path}/mlp/down/kernel", LINEAR, WHOLE),
    ]


def _diffusers_stream(name: str, path: str, s: str, ends: bool) -> list[Row]:
    added, norm, out, mlp = {
        "x": ("to_{}", "norm_{}", "to_out.0", "ff"),
        "y": ("add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    }[s]
    modulation = {"x": "norm1.linear", "y": "norm1_context.linear"}[s] + ("_1" if ends else "")
    rows = [
        *_linear(f"{name}.{modulation}", f"{path}/modulation"),
        *(
            (f"{name}.attn1.{added.format(i)}.weight", f"{path}/{i}/kernel", LINEAR, WHOLE)
            for i in "qkv"
        ),
        *(
            (f"{name}.attn1.{norm.format(i)}.weight", f"{path}/norm_{i}/scale", SAME, WHOLE)
            for i in "qk"
        ),
    ]
    if ends:
        return rows
    return [
        *rows,
        *_linear(f"{name}.attn1.{out}", f"{path}/o"),
        (f"{name}.{mlp}.net.0.proj.weight", f"{path}/mlp/up/kernel", LINEAR, (0, 2)),
        (f"{name}.{mlp}.net.0.proj.weight", f"{path}/mlp/gate/kernel", LINEAR, (1, 2)),
        (f"{name}.{mlp}.net.2.weight", f"{path}/mlp/down/kernel", LINEAR, WHOLE),
    ]


def _rules(config: DiTConfig, layout: Layout) -> list[Rule]:
    original = layout == "original"
    stream, blocks, patch = (
        (_genmo_stream, "blocks", "x_embedder.proj")
        if original
        else (_diffusers_stream, "transformer_blocks", "patch_embed.proj")
    )
    last = config.num_layers - 1
    rows: list[Row] = [
        ("pos_frequencies", "pos_frequencies", SAME, WHOLE),
        (f"{patch}.weight", "patch_embedding/kernel", patches(config.patch_size), WHOLE),
        (f"{patch}.bias", "patch_embedding/bias", SAME, WHOLE),
    ]
    for genmo, diffusers, path in _ENDS:
        rows += _linear(genmo if original else diffusers, path)
    pool = "t5_y_embedder.to_kv" if original else "time_embed.pooler.to_kv"
    rows += _halves(pool, "text_pool/k", "text_pool/v")
    rows += (
        _halves("final_layer.mod", "head/shift", "head/scale")
        if original
        else _halves("norm_out.linear", "head/scale", "head/shift")
    )
    for s, path in (("x", "visual"), ("y", "text")):
        rows += stream(f"{blocks}.{{i}}", f"blocks/{path}", s, False)
        rows += stream(f"{blocks}.{last}", f"last/{path}", s, s == "y")
    return [Rule(*row) for row in rows]


def original_rules(config: DiTConfig) -> list[Rule]:
    """Table of `dit.safetensors` of genmo/mochi-1-preview and of `pusa_v0_dit.safetensors`."""
    return _rules(config, "original")


def diffusers_rules(config: DiTConfig) -> list[Rule]:
    """Table of the `transformer` folder of genmo/mochi-1-preview."""
    return _rules(config, "diffusers")


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a DiT checkpoint uses; None if it is no DiT of Mochi."""
    if "t5_y_embedder.to_q.weight" in source.tensors:
        return "original"
    return "diffusers" if "time_embed.pooler.to_q.weight" in source.tensors else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> DiTConfig:
    """Infers the configuration from the tensors' shapes and the `config.json` beside them.

    Args:
      source: checkpoint in either layout.
      published: content of Diffusers' config.json; may be missing.

    Raises:
      ValueError: no DiT of Mochi, or config.json says something else than the tensors.
    """
    layout, published = layout_of(source), published or {}
    if layout is None:
        raise ValueError("no DiT of Mochi: there is no tensor t5_y_embedder.to_q.weight.")
    original = layout == "original"
    blocks, patch, time, projection, first, first_context, head = (
        (
            "blocks", "x_embedder.proj", "t_embedder.mlp.0", "t5_yproj", "mlp_x.w1", "mlp_y.w1",
            "final_layer.linear",
        )
        if original
        else (
            "transformer_blocks", "patch_embed.proj", "time_embed.timestep_embedder.linear_1",
            "time_embed.caption_proj", "ff.net.0.proj", "ff_context.net.0.proj", "proj_out",
        )
    )  # fmt: skip
    dim, in_dim, *patch_size = shape_of(source, f"{patch}.weight", 4)
    context_dim, text_dim = shape_of(source, f"{projection}.weight", 2)
    head_rows, _ = shape_of(source, f"{head}.weight", 2)
    layers = {m[0] for name in source.tensors if (m := re.match(rf"{blocks}\.\d+\.", name))}
    _, heads, pairs = shape_of(source, "pos_frequencies", 3)
    if head_rows % math.prod(patch_size) or heads * 2 * pairs != dim:
        raise ValueError(
            f"sizes contradict each other: width {dim}, {heads} heads of {2 * pairs} channels, "
            f"{head_rows} rows of {head}.weight for patches {patch_size}."
        )
    fields: dict[str, Any] = {
        "dim": dim,
        "context_dim": context_dim,
        "ffn_dim": shape_of(source, f"{blocks}.0.{first}.weight", 2)[0] // 2,
        "context_ffn_dim": shape_of(source, f"{blocks}.0.{first_context}.weight", 2)[0] // 2,
        "num_heads": heads,
        "num_layers": len(layers),
        "in_dim": in_dim,
        "out_dim": head_rows // math.prod(patch_size),
        "freq_dim": shape_of(source, f"{time}.weight", 2)[1],
        "text_dim": text_dim,
        "patch_size": (1, *patch_size),
    }
    stated = {
        "num_attention_heads": heads,
        "attention_head_dim": 2 * pairs,
        "num_layers": len(layers),
        "pooled_projection_dim": context_dim,
        "in_channels": in_dim,
        "text_embed_dim": text_dim,
        "time_embed_dim": fields["freq_dim"],
        "patch_size": patch_size[0],
    }
    check_agreement(published, stated)
    text_len = positive(published, "max_sequence_length", DiTConfig.text_len)
    return DiTConfig(**fields, text_len=text_len)
