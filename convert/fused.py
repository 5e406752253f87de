"""LoRA files whose adapters lie around several layers at once, as genmo's trainer writes them.

    blocks.0.attn.qkv_x.lora_A [R, in], .lora_B [3 * out, R]     metadata "kwargs": JSON with alphas

Queries, keys and values share the down factor; the up factor holds theirs one after another.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.foreign import LoRANames
from pusa_jax.models.lora import LoRA, LowRank

ALPHAS = {
    "qkv_proj_lora_alpha": ("qkv_x", "qkv_y"),
    "out_proj_lora_alpha": ("proj_x", "proj_y"),
}
"""genmo's settings -> the layers they are for."""


def parts(adapter: LowRank, count: int) -> list[LowRank]:
    """The adapters of layers that are one in a file.

    Raises:
      ValueError: the outputs cannot be shared out.
    """
    if count == 1:
        return [adapter]
    if len(adapter.up) % count:
        raise ValueError(
            f"an up factor of {len(adapter.up)} rows cannot be shared out among {count} layers."
        )
    return [dataclasses.replace(adapter, up=up) for up in np.split(adapter.up, count)]


def settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Alphas by genmo's metadata, as PEFT's settings have them; empty if there are none.

    Raises:
      ValueError: the metadata is damaged.
    """
    try:
        kwargs = json.loads(metadata.get("kwargs", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its metadata has damaged kwargs ({error!r:.100}).") from None
    if not isinstance(kwargs, dict):
        raise ValueError(f"its metadata has kwargs={kwargs!r:.40}, a table is expected.")
    alphas = {
        layer: kwargs[name] for name, layers in ALPHAS.items() if name in kwargs for layer in layers
    }
    return {"alpha_pattern": alphas} if alphas else {}


def tensors(lora: LoRA, names: LoRANames, dtype: DTypeLike) -> dict[str, np.ndarray]:
    """The tensors of a file as genmo names them, all of one rank, with alpha / rank in B.

    Adapters of one fused layer that do not share their down factor are laid beside each other:
    the rank is then the sum of theirs.

    Raises:
      ValueError: layers of the model are not fused elsewhere, or have no name in genmo's files.
    """
    if not names.fused:
        raise ValueError(f"{names.model} has no layers that genmo names; choose another naming.")
    whole: dict[str, dict[int, LowRank]] = {}
    counts: dict[str, int] = {}
    rows = [*names.fused, *((row[-2], (row[-1],)) for row in names.layers if len(row) > 2)]
    places = {path: (name, i, len(ps)) for name, ps in rows for i, path in enumerate(ps)}
    for target, module in lora.modules.items():
        if target.path not in places:
            raise ValueError(f"{target} has no name in genmo's files; choose another naming.")
        name, which, count = places[target.path]
        name = names.numbered(name).replace("{i}", str(target.layer))
        whole.setdefault(name, {})[which] = module
        counts[name] = count
    joined = {name: _joined(modules, counts[name]) for name, modules in whole.items()}
    rank = max(len(down) for down, _ in joined.values())
    arrays: dict[str, np.ndarray] = {}
    for name, (down, up) in joined.items():
        missing = rank - len(down)  # genmo has one rank for all layers of a kind
        arrays[f"{name}.lora_A"] = np.pad(down, ((0, missing), (0, 0))).astype(dtype)
        arrays[f"{name}.lora_B"] = np.pad(up, ((0, 0), (0, missing))).astype(dtype)
    return arrays


def metadata(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Genmo's metadata of such tensors."""
    rank = len(next(x for name, x in arrays.items() if name.endswith(".lora_A")))
    kinds = ("qkv_proj", "out_proj")
    values = {"rank": rank, "alpha": rank, "dropout": 0.0}
    kwargs = {f"{kind}_lora_{name}": value for kind in kinds for name, value in values.items()}
    return {"kwargs": json.dumps(kwargs)}


def _joined(modules: Mapping[int, LowRank], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Down and up factor of `count` layers in one, float32."""
    ups = {
        i: m.up.astype(np.float32) * np.float32(1 if m.alpha is None else m.alpha / m.rank)
        for i, m in modules.items()
    }
    first, *others = modules.values()
    is_shared = all(np.array_equal(first.down, other.down) for other in others)
    downs = [first.down] if is_shared else [m.down for m in modules.values()]
    starts = np.cumsum([0, *(len(down) for down in downs)])
    out = len(first.up)
    up = np.zeros((count * out, starts[-1]), np.float32)
    for k, (i, one) in enumerate(ups.items()):
        start = 0 if is_shared else starts[k]
        up[i * out : (i + 1) * out, start : start + one.shape[1]] = one
    return np.concatenate(downs).astype(np.float32), up
