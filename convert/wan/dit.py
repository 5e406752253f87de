"""Rule tables of the Wan DiT for its two naming schemes, and its configuration from a checkpoint.

One row per module: its name in the original code, its name in Diffusers, its place here. The norm
before cross-attention is `norm3` in the original and `norm2` in Diffusers.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from pusa_jax.convert.files.config_json import check_agreement, positive
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.tables import (
    DROP_FIRST,
    LINEAR,
    SAME,
    Rule,
    TensorSource,
    Transform,
    shape_of,
)
from pusa_jax.models.wan.config import DiTConfig

LINEARS = (
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1", "text_embedding/up"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2", "text_embedding/down"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1", "time_embedding/up"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2", "time_embedding/down"),
    ("time_projection.1", "condition_embedder.time_proj", "time_projection"),
    ("blocks.{i}.self_attn.q", "blocks.{i}.attn1.to_q", "blocks/self_attn/q"),
    ("blocks.{i}.self_attn.k", "blocks.{i}.attn1.to_k", "blocks/self_attn/k"),
    ("blocks.{i}.self_attn.v", "blocks.{i}.attn1.to_v", "blocks/self_attn/v"),
    ("blocks.{i}.self_attn.o", "blocks.{i}.attn1.to_out.0", "blocks/self_attn/o"),
    ("blocks.{i}.cross_attn.q", "blocks.{i}.attn2.to_q", "blocks/cross_attn/q"),
    ("blocks.{i}.cross_attn.k", "blocks.{i}.attn2.to_k", "blocks/cross_attn/k"),
    ("blocks.{i}.cross_attn.v", "blocks.{i}.attn2.to_v", "blocks/cross_attn/v"),
    ("blocks.{i}.cross_attn.o", "blocks.{i}.attn2.to_out.0", "blocks/cross_attn/o"),
    ("blocks.{i}.ffn.0", "blocks.{i}.ffn.net.0.proj", "blocks/ffn/up"),
    ("blocks.{i}.ffn.2", "blocks.{i}.ffn.net.2", "blocks/ffn/down"),
    ("head.head", "proj_out", "head/linear"),
)
"""Linear layers: (original name, Diffusers name, path here)."""

_OTHERS = (
    ("patch_embedding.bias", "patch_embedding.bias", "patch_embedding/bias", SAME),
    ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table", "blocks/modulation", DROP_FIRST),
    ("blocks.{i}.norm3.weight", "blocks.{i}.norm2.weight", "blocks/norm3/scale", SAME),
    ("blocks.{i}.norm3.bias", "blocks.{i}.norm2.bias", "blocks/norm3/bias", SAME),
    *(
        (
            f"blocks.{{i}}.{ours}.{norm}.weight",
            f"blocks.{{i}}.{theirs}.{norm}.weight",
            f"blocks/{ours}/{norm}/scale",
            SAME,
        )
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for norm in ("norm_q", "norm_k")
    ),
    ("head.modulation", "scale_shift_table", "head/modulation", DROP_FIRST),
)
"""The other tensors: (original name, Diffusers name, path here, layout)."""

_CONFIG_KEYS: Mapping[Layout, Mapping[str, str]] = {
    "original": {
        "dim": "dim", "ffn_dim": "ffn_dim", "num_layers": "num_layers", "in_dim": "in_dim",
        "out_dim": "out_dim", "freq_dim": "freq_dim", "text_dim": "text_dim",
    },
    "diffusers": {
        "ffn_dim": "ffn_dim", "num_layers": "num_layers", "in_dim": "in_channels",
        "out_dim": "out_channels", "freq_dim": "freq_dim", "text_dim": "text_dim",
    },
}  # fmt: skip
"""Field of DiTConfig -> entry of the published config.json, for what the tensors tell as well."""


def patches(patch_size: tuple[int, int, int]) -> Transform:
    """Conv weight (D, C, 1, ph, pw) <-> kernel (ph pw C, D), channels fastest."""
    _, ph, pw = patch_size
    return Transform(
        lambda w: w[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
        lambda k: k.reshape(ph, pw, -1, k.shape[-1]).transpose(3, 2, 0, 1)[:, :, None],
    )


def rules_of(patch_size: tuple[int, int, int], column: int) -> list[Rule]:
    """Table of the naming scheme in a column of `LINEARS`; nothing else of a model matters."""
    rules = [Rule("patch_embedding.weight", "patch_embedding/kernel", patches(patch_size))]
    for row in LINEARS:
        rules.append(Rule(f"{row[column]}.weight", f"{row[2]}/kernel", LINEAR))
        rules.append(Rule(f"{row[column]}.bias", f"{row[2]}/bias"))
    for *names, path, transform in _OTHERS:
        rules.append(Rule(names[column], path, transform))
    return rules


def original_rules(config: DiTConfig) -> list[Rule]:
    """Table of `Wan-AI/Wan2.1-T2V-*`."""
    return rules_of(config.patch_size, 0)


def diffusers_rules(config: DiTConfig) -> list[Rule]:
    """Table of the `transformer` folder of `Wan-AI/Wan2.1-T2V-*-Diffusers`."""
    return rules_of(config.patch_size, 1)


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a DiT checkpoint uses; None if it is no DiT of the Wan family."""
    original, diffusers, _ = LINEARS[0]
    if f"{original}.weight" in source.tensors:
        return "original"
    return "diffusers" if f"{diffusers}.weight" in source.tensors else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> DiTConfig:
    """Infers the configuration from the tensors' shapes and the `config.json` beside them.

    Args:
      source: checkpoint in either layout.
      published: content of config.json in either layout; may be missing if heads are 128 wide, as
        in every published model.

    Raises:
      ValueError: no text-to-video DiT of the Wan family, or config.json says something else than
        the tensors.
    """
    layout, published = layout_of(source), published or {}
    if layout is None:
        raise ValueError("no DiT of the Wan family: there is no tensor text_embedding.0.weight.")
    column = 0 if layout == "original" else 1
    names = {row[2]: f"{row[column]}.weight" for row in LINEARS}
    dim, in_dim, *patch = shape_of(source, "patch_embedding.weight", 5)
    head_rows, _ = shape_of(source, names["head/linear"], 2)
    if head_rows % math.prod(patch):
        raise ValueError(
            f"{names['head/linear']} has {head_rows} rows, must be a multiple of the patch {patch}."
        )
    layers = {m[0] for name in source.tensors if (m := re.match(r"blocks\.\d+\.", name))}
    fields: dict[str, Any] = {
        "dim": dim,
        "ffn_dim": shape_of(source, names["blocks/ffn/up"].replace("{i}", "0"), 2)[0],
        "num_layers": len(layers),
        "in_dim": in_dim,
        "out_dim": head_rows // math.prod(patch),
        "freq_dim": shape_of(source, names["time_embedding/up"], 2)[1],
        "text_dim": shape_of(source, names["text_embedding/up"], 2)[1],
        "patch_size": tuple(patch),
    }
    if fields["in_dim"] != fields["out_dim"]:
        raise ValueError(
            f"in_dim is {in_dim} and out_dim {fields['out_dim']}: an image-to-video checkpoint, "
            "which takes its condition as further input channels; use a text-to-video one "
            "(in_dim 16), because Pusa gives conditions through per-frame noise levels."
        )
    keys = _CONFIG_KEYS[layout]
    check_agreement(published, {key: fields[field] for field, key in keys.items()})
    check_agreement(published, {"patch_size": patch})
    return DiTConfig(
        **fields,
        num_heads=_num_heads(dim, published),
        text_len=positive(published, "text_len", DiTConfig.text_len),
        eps=positive(published, "eps", DiTConfig.eps),
    )


def _num_heads(dim: int, published: Mapping[str, Any]) -> int:
    heads = published.get("num_heads", published.get("num_attention_heads"))
    if heads is None and dim % 128 == 0:
        return dim // 128
    if type(heads) is not int or heads < 1 or dim % heads:
        raise ValueError(
            f"a model of width {dim} needs a config.json with num_heads that divide it, "
            f"got {heads!r:.40}."
        )
    return heads
