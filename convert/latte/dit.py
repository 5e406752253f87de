"""Rule table of LatteVIDEO and Latte, and the configuration from a checkpoint.

FVDM calls its blocks `blocks_spatial.0`, `blocks_temp.0`, ..., and Latte, whose tensors are the
same, `blocks.0`, `blocks.1`, ...: both are read, FVDM's names are written. The weights are those
under "ema" in a file of a trainer. Neither says how many heads there are.
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
from pusa_jax.convert.transforms import patches
from pusa_jax.models.latte.config import SIZES, DiTConfig

BLOCKS = (
    ("blocks_spatial.{i}", "blocks.{2i}", "blocks/spatial"),
    ("blocks_temp.{i}", "blocks.{2i+1}", "blocks/temporal"),
)
"""FVDM's name of a block, Latte's, and path here."""

LAYERS = (
    ("attn.proj", "o"),
    ("mlp.fc1", "mlp/up"),
    ("mlp.fc2", "mlp/down"),
    ("adaLN_modulation.1", "modulation/linear"),
)
"""Linear layers of a block beside queries, keys and values: name, path."""

ENDS = (
    ("t_embedder.mlp.0", "time_embedding/up"),
    ("t_embedder.mlp.2", "time_embedding/down"),
    ("final_layer.adaLN_modulation.1", "head/modulation/linear"),
    ("final_layer.linear", "head/linear"),
)
"""Linear layers outside the blocks."""

MARK = "temp_embed"
"""A tensor that FVDM's and Latte's checkpoints have and no other."""

TEXT_MARKS = (
    "text_embedding_projection.1.weight",
    "temporal_transformer_blocks.0.attn1.to_q.weight",
)
"""Tensors of models of this family that take a text: with `extras: 78`, and LatteT2V (Latte-1)."""

HEADS = {config.dim: config.num_heads for config in SIZES.values()}
"""Width of published sizes -> heads."""


def _rows(name: str, path: str) -> list[tuple[str, str, Transform, tuple[int, int]]]:
    """Tensors of a linear layer: name, leaf, layout, part."""
    return [
        (f"{name}.weight", f"{path}/kernel", LINEAR, (0, 1)),
        (f"{name}.bias", f"{path}/bias", SAME, (0, 1)),
    ]


def original_rules(config: DiTConfig) -> list[Rule]:
    """Table of FVDM's checkpoints and of `maxin-cn/Latte`'s without text."""
    rows = [
        ("pos_embed", "pos_embed", DROP_FIRST, (0, 1)),
        ("temp_embed", "temp_embed", DROP_FIRST, (0, 1)),
        ("x_embedder.proj.weight", "patch_embedding/kernel", patches(config.patch_size), (0, 1)),
        ("x_embedder.proj.bias", "patch_embedding/bias", SAME, (0, 1)),
    ]
    if config.num_classes:
        rows.append(("y_embedder.embedding_table.weight", "label_embedding", SAME, (0, 1)))
    for name, path in ENDS:
        rows += _rows(name, path)
    of_block = [row for name, path in LAYERS for row in _rows(name, path)]
    for i, layer in enumerate("qkv"):
        of_block.append(("attn.qkv.weight", f"{layer}/kernel", LINEAR, (i, 3)))
        of_block.append(("attn.qkv.bias", f"{layer}/bias", SAME, (i, 3)))
    rules = [Rule(*row) for row in rows]
    for fvdm, latte, path in BLOCKS:
        for name, leaf, transform, part in of_block:
            target = f"{path}/{leaf}"
            other = Rule(f"{latte}.{name}", target, transform, part)
            rules.append(Rule(f"{fvdm}.{name}", target, transform, part, (other,)))
    return rules


def layout_of(source: TensorSource) -> Layout | None:
    """Which naming scheme a checkpoint uses; None if it is no DiT of Latte, with or without text.

    There is one: those that take a text are refused when their configuration is asked for.
    """
    is_known = any(name in source.tensors for name in (MARK, *TEXT_MARKS))
    return "original" if is_known else None


def config_from_source(
    source: TensorSource, published: Mapping[str, Any] | None = None
) -> DiTConfig:
    """Infers the configuration from the tensors' shapes and the `config.json` beside them.

    Args:
      source: checkpoint.
      published: content of config.json, see `published.original_dit`; may be missing for published
        widths and square pictures.

    Raises:
      ValueError: no DiT of Latte, one that takes a text or has no average, or sizes that contradict
        each other or are not told.
    """
    published = published or {}
    _check_kind(source)
    dim, in_dim, *patch_size = shape_of(source, "x_embedder.proj.weight", 4)
    depth = {m[0] for n in source.tensors if (m := re.match(r"blocks(_spatial|_temp)?\.\d+\.", n))}
    head_rows, _ = shape_of(source, "final_layer.linear.weight", 2)
    if head_rows != 2 * in_dim * math.prod(patch_size):
        raise ValueError(
            f"final_layer.linear.weight has {head_rows} rows, {2 * in_dim * math.prod(patch_size)} "
            "are expected: a model that predicts noise and variance (learn_sigma)."
        )
    grid = _grid(shape_of(source, "pos_embed", 3)[1], published, patch_size)
    fields: dict[str, Any] = {
        "dim": dim,
        "num_heads": _heads(dim, published),
        "num_layers": len(depth),
        "in_dim": in_dim,
        "patch_size": (1, *patch_size),
        "num_classes": _classes(source),
        "num_frames": shape_of(source, "temp_embed", 3)[1],
        "grid": grid,
        "freq_dim": shape_of(source, "t_embedder.mlp.0.weight", 2)[1],
    }
    stated = {
        "hidden_size": dim,
        "depth": len(depth),
        "in_channels": in_dim,
        "patch_size": patch_size[0],
        "num_frames": fields["num_frames"],
        "learn_sigma": True,
    }
    check_agreement(published, stated)
    if fields["num_classes"]:
        check_agreement(published, {"num_classes": fields["num_classes"]})
    return DiTConfig(**fields)


def _check_kind(source: TensorSource) -> None:
    if any(name in source.tensors for name in TEXT_MARKS):
        raise ValueError(
            "it is a Latte that takes a text, which is not supported; use one without text or with "
            "classes, as ffs.pt, skytimelapse.pt, taichi-hd.pt and ucf101.pt of maxin-cn/Latte."
        )
    if MARK not in source.tensors:
        raise ValueError(f"no DiT of Latte: there is no tensor {MARK}.")
    entry = getattr(source, "entry", "")
    if entry not in ("", "ema"):
        raise ValueError(
            f"it has no ema, the running average that is sampled with, only {entry!r}; save "
            f"checkpoint[{entry!r}] alone if it is to be used as it is."
        )


def _classes(source: TensorSource) -> int:
    """Rows of the table of labels but the one that says nothing; 0 if there is no table."""
    name = "y_embedder.embedding_table.weight"
    return shape_of(source, name, 2)[0] - 1 if name in source.tensors else 0


def _heads(dim: int, published: Mapping[str, Any]) -> int:
    heads = positive(published, "num_heads", HEADS.get(dim, 1))
    if "num_heads" not in published and dim not in HEADS:
        raise ValueError(
            f"nothing says how many heads share its {dim} channels; put a config.json beside it "
            'that does, as {"_class_name": "LatteVIDEO", "num_heads": 8}.'
        )
    return heads


def _grid(places: int, published: Mapping[str, Any], patch_size: list[int]) -> tuple[int, int]:
    """Rows and columns of patches: by the size of latents that config.json has, else a square."""
    side = math.isqrt(places)
    size = published.get("input_size", [side * p for p in patch_size])
    sides = size if isinstance(size, list) else [size, size]
    whole = [
        n // p for n, p in zip(sides, patch_size, strict=False) if type(n) is int and not n % p
    ]
    if len(sides) != 2 or len(whole) != 2 or math.prod(whole) != places:
        raise ValueError(
            f"pos_embed has {places} places, which is no grid of latents of {size!r:.40} in "
            f"patches of {patch_size}; a config.json beside it may say input_size, [rows, columns]."
        )
    rows, columns = whole
    return rows, columns
