"""LoRA files of any dialect -> one canonical form, and the one form written.

A key is prefix + module + part. Prefixes are dropped; the module is looked up in the table of
linear layers (original names, Diffusers names, and both with underscores for dots, as Kohya writes
them); the part says whether the tensor is the down factor, the up factor or alpha. What is left
over is either listed as ignored with a reason or an error, never lost. Names of layers are those of
a family, see `foreign.LoRANames`; all other rules here are those of the tools.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert import fused
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.foreign import LoRANames
from pusa_jax.convert.tables import TensorSource, Transform
from pusa_jax.models.lora import LoRA, LowRank, Target, rank_stabilised

PREFIXES = ("diffusion_model.", "pipe.dit.", "base_model.model.", "transformer.", "model.", "dit.")
"""What tools put before module names, possibly several."""

FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
"""What tools that write underscores for dots put before module names."""

Part = Literal["down", "up", "alpha"]

_PARTS: tuple[tuple[str, Part], ...] = (
    (r"\.lora_A(\.[^.]+)?\.weight", "down"), (r"\.lora_B(\.[^.]+)?\.weight", "up"),
    (r"\.lora_A", "down"), (r"\.lora_B", "up"),
    (r"[._]lora[._]down\.weight", "down"), (r"[._]lora[._]up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"), (r"\.lora_linear_layer\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
)  # fmt: skip
"""Endings of keys -> part; the optional middle of the first two is an adapter name (`default`)."""

_UNSUPPORTED = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_": "LoHa", "lokr_": "LoKr",
    "lora_mid": "LoCon", "set_weight": "a replaced weight",
}  # fmt: skip
"""Parts of keys of other kinds of adapters, which would be wrong if merged as LoRA."""

_FOLDER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""Names of the LoRA in a folder that PEFT or Diffusers wrote."""


Modules = tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]
"""Names of a layer -> its path, or those of the layers it is in one."""


def _modules(names: LoRANames) -> Modules:
    """Module names of every dialect -> path of the layer."""
    rows = (*((name, (path,)) for *row, path in names.layers for name in row), *names.fused)
    return _patterns(tuple((names.numbered(name), paths) for name, paths in rows))


@functools.cache
def _patterns(rows: tuple[tuple[str, tuple[str, ...]], ...]) -> Modules:
    return tuple(
        (re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)")), paths)
        for dotted, paths in rows
        for name in (dotted, dotted.replace(".", "_"))
    )


Config = Mapping[str, Any]
"""PEFT's settings: `lora_alpha`, `alpha_pattern`, `use_rslora`."""


def read_lora(path: Path, names: LoRANames) -> LoRA:
    """Reads a LoRA of any dialect: `.safetensors`, `.pt`, or a folder that PEFT or Diffusers wrote.

    An alpha is taken from the file's own entries, else from the configuration that Diffusers stores
    in the metadata and PEFT in `adapter_config.json`. The factors stay in the file until merged.

    Args:
      path: the file or folder.
      names: of the layers that the model has.

    Raises:
      FileNotFoundError: no such file, or a folder without one.
      ValueError: no LoRA, another kind of adapter, factors that do not belong together, or layers
        that the model does not have.
    """
    source, config = open_lora(path)
    try:
        return parse_lora(source, names, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_lora(path: Path) -> tuple[TensorSource, Config]:
    """Opens a LoRA file, or the one in a folder, and finds the settings that belong to it.

    Raises:
      FileNotFoundError: no such file, or a folder without one.
      ValueError: no file of tensors, or damaged settings.
    """
    if path.is_dir():
        found = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path} has no LoRA; expected {' or '.join(_FOLDER_FILES)}.")
        path = found[0]
    source = open_tensors(path)
    try:
        config = json.loads(source.metadata.get("lora_adapter_metadata", "{}"))
        beside = path.with_name("adapter_config.json")
        if path.name == _FOLDER_FILES[0] and beside.is_file():
            config = json.loads(beside.read_text("utf-8"))
        config = {k.removeprefix("transformer."): v for k, v in config.items()}
        return source, config | fused.settings(source.metadata)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def parse_lora(source: TensorSource, names: LoRANames, config: Config | None = None) -> LoRA:
    """Sorts the tensors of a LoRA into adapters.

    Args:
      source: the tensors.
      names: of the layers that the model has.
      config: for layers without an alpha of their own.

    Raises:
      ValueError: see `read_lora`.
    """
    groups: dict[tuple[Target, ...], dict[Part, str]] = {}
    layers = _modules(names)
    ignored, unknown = {}, []
    for name in source.tensors:
        for mark, kind in _UNSUPPORTED.items():
            if mark in name:
                raise ValueError(f"{name!r} belongs to {kind}; only LoRA can be merged.")
        reason = next((why for p, why in names.ignored.items() if re.fullmatch(p, name)), None)
        if reason is not None:
            ignored[name] = reason
            continue
        targets, part = _split(name, layers)
        if not targets or part is None:
            unknown.append(name)
        elif part in groups.setdefault(targets, {}):
            raise ValueError(
                f"{name!r} and {groups[targets][part]!r} are the same part of {targets[0]}."
            )
        else:
            groups[targets][part] = name
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(source.tensors)} entries belong to no layer of {names.model}: "
            f"{', '.join(map(repr, sorted(unknown)[:3]))}."
        )
    if not groups:
        raise ValueError("it holds no LoRA: no entry is called lora_A, lora_down or alike.")
    modules: dict[Target, LowRank] = {}
    for targets, parts in groups.items():
        convolution = names.convolutions.get(targets[0].path)
        adapter = _adapter(source, targets[0], parts, config or {}, convolution)
        for target, one in zip(targets, fused.parts(adapter, len(targets)), strict=True):
            if target in modules:
                raise ValueError(f"{target} has two adapters, one of them in a fused layer.")
            modules[target] = one
    return LoRA(modules, ignored)


def _split(name: str, modules: Modules) -> tuple[tuple[Target, ...], Part | None]:
    """Layers and part that an entry belongs to, as far as they are known."""
    module, part = name, None
    for ending, kind in _PARTS:
        if match := re.fullmatch(f"(.+?){ending}", name):
            module, part = match[1], kind
            break
    while stripped := next((p for p in PREFIXES if module.startswith(p)), None):
        module = module.removeprefix(stripped)
    flat = next((p for p in FLAT_PREFIXES if module.startswith(p)), "")
    module = module.removeprefix(flat)
    for pattern, paths in modules:
        if match := pattern.fullmatch(module):
            layer = int(match[1]) if match.groups() else None
            return tuple(Target(path, layer) for path in paths), part
    return (), part


def _adapter(
    source: TensorSource,
    target: Target,
    names: Mapping[Part, str],
    config: Config,
    convolution: Transform | None,
) -> LowRank:
    """The adapter of a layer, of whose weight `convolution` is the layout if it is one."""
    if "down" not in names or "up" not in names:
        raise ValueError(f"{target} has only {', '.join(names)}; it needs down and up.")
    down, up = source.read(names["down"]), source.read(names["up"])
    shapes = f"{list(down.shape)} and {list(up.shape)}"
    if convolution and up.shape[2:] == (1, 1, 1) and down.ndim == 5 and down.size:
        down, up = convolution.to_leaf(down).T, up.reshape(up.shape[:2])
    rank = len(down) if down.ndim == 2 else 0
    if not down.size or up.ndim != 2 or up.shape != (len(up), rank):
        raise ValueError(
            f"{target} has factors {shapes}, which must be [rank, in] and [out, rank]."
        )
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (down, up)):
        raise ValueError(f"{target} has factors of {down.dtype} and {up.dtype}, must be floating.")
    if "alpha" not in names:
        module = re.sub(r"\.lora.*", "", names["down"])
        return LowRank(down, up, _configured_alpha(module, rank, config))
    alpha = source.read(names["alpha"])
    if alpha.size != 1:
        raise ValueError(f"alpha of {target} must be one number, got shape {list(alpha.shape)}.")
    return LowRank(down, up, float(alpha.reshape(())))


def _configured_alpha(module: str, rank: int, config: Config) -> float | None:
    """Alpha of a layer by PEFT's settings; None if they do not say."""
    if config.get("use_dora"):
        raise ValueError("its settings say DoRA; only LoRA can be merged.")
    alpha = config.get("lora_alpha")
    for name, value in (config.get("alpha_pattern") or {}).items():
        if f".{module}".endswith(f".{name}"):
            alpha = value
    if alpha is None:
        return None
    if not isinstance(alpha, int | float):
        raise ValueError(f"its settings have lora_alpha={alpha!r:.40}, which must be a number.")
    return rank_stabilised(float(alpha), rank) if config.get("use_rslora") else float(alpha)


Naming = Literal["comfy", "pusa_v1", "genmo"]

NAMING: Mapping[Naming, str] = {
    "comfy": "{prefix}.{layer}.lora_{factor}.weight",
    "pusa_v1": "{layer}.lora_{factor}.default.weight",
    "genmo": "{layer}.lora_{factor}",
}
"""Names of factors in files: what ComfyUI, Diffusers and PEFT load, what Pusa publishes, and what
genmo's trainer writes of Mochi, whose queries, keys and values have one adapter."""


def lora_tensors(
    lora: LoRA, names: LoRANames, dtype: DTypeLike = "bfloat16", naming: Naming = "comfy"
) -> ArrayTensors:
    """The tensors of a file: original names of layers, factors A [R, in] and B [out, R], no alpha.

    alpha / rank is multiplied into B. So strength 1 is as trained for every loader, those that
    ignore an alpha, as Pusa's own, included.
    """
    if naming == "genmo":
        return ArrayTensors(fused.tensors(lora, names, dtype))
    layers = {path: names.numbered(name) for name, *_, path in names.layers}
    arrays = {}
    for target, module in lora.modules.items():
        layer = layers[target.path].replace("{i}", str(target.layer))
        scale = 1.0 if module.alpha is None else module.alpha / module.rank
        down, up = module.down, module.up.astype(np.float32) * np.float32(scale)
        if target.path in names.convolutions:
            down = names.convolutions[target.path].to_torch(down.T)
            up = up[:, :, None, None, None]
        for factor, array in (("A", down), ("B", up)):
            key = NAMING[naming].format(prefix=names.prefix, layer=layer, factor=factor)
            arrays[key] = array.astype(dtype)
    return ArrayTensors(arrays)


def write_lora(
    path: Path,
    lora: LoRA,
    names: LoRANames,
    *,
    dtype: DTypeLike = "bfloat16",
    naming: Naming = "comfy",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a LoRA as `lora_tensors` to a safetensors file.

    Args:
      path: the file; has its name only once it is complete.
      lora: the adapters.
      names: of the layers of the model they belong to.
      dtype: what the factors are stored in.
      naming: key of `NAMING`.
      metadata: text entries such as base model, steps, rank; shown by some tools.
    """
    tensors = lora_tensors(lora, names, dtype, naming)
    if naming == "genmo":
        metadata = {**(metadata or {}), **fused.metadata(tensors.arrays)}
    write_safetensors(path, tensors, metadata=metadata)
