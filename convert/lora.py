"""LoRA files of any dialect -> one canonical form, and the one form written.

A key is prefix + module + part. Prefixes are dropped; the module is looked up in the table of
linear layers (original names, Diffusers names, and both with underscores for dots, as Kohya writes
them); the part says whether the tensor is the down factor, the up factor or alpha. What is left
over is either listed as ignored with a reason or an error, never lost. Names of layers are those of
a family, see `foreign.LoRANames`; all other rules here are those of the tools.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert import fused
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.foreign import LoRANames
from pusa_jax.convert.lora_settings import (
    ADAPTER,
    WAY_OUT,
    Config,
    configured_alpha,
    header_remark,
    settings_of,
)
from pusa_jax.convert.tables import DROP_FIRST, Rule, TensorSource, Transform
from pusa_jax.listing import listed
from pusa_jax.models.lora import Difference, LoRA, LowRank, Target
from pusa_jax.weights.finite import nonfinite

PREFIXES = ("diffusion_model.", "pipe.dit.", "base_model.model.", "transformer.", "model.", "dit.")
"""What tools put before module names, possibly several."""

FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
"""What tools that write underscores for dots put before module names."""

Part = Literal["down", "up", "alpha", "bias"]

_PARTS: tuple[tuple[str, Part], ...] = (
    (r"\.lora_A(\.[^.]+)?\.weight", "down"), (r"\.lora_B(\.[^.]+)?\.weight", "up"),
    (r"\.lora_A", "down"), (r"\.lora_B", "up"),
    (r"[._]lora[._]down\.weight", "down"), (r"[._]lora[._]up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"), (r"\.lora_linear_layer\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
    (r"(\.lora_B(\.[^.]+)?|[._]lora[._]up|\.lora_linear_layer\.up)\.bias", "bias"),
)  # fmt: skip
"""Endings of keys -> part; the optional middle of the first two is an adapter name (`default`)."""

_UNSUPPORTED = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_": "LoHa", "lokr_": "LoKr",
    "lora_mid": "LoCon", "set_weight": "a replaced weight", "oft_": "OFT", "vera_": "VeRA",
    "ia3_l": "IA3", ".a1.weight": "GLoRA",
}  # fmt: skip
"""Parts of keys of other kinds of adapters, which would be wrong if merged as LoRA."""

_DIFFERENCES = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m",
                "scale_shift_table": "diff_m"}  # fmt: skip
"""Last part of a tensor's name -> ending of the entry that is added to it as it is."""

WHOLE = re.compile(r"(\.base_layer|\.modules_to_save(\.[^.]+)?)?\.(weight|bias)$")
"""Endings of tensors that are no part of an adapter."""

FOLDER_FILES = tuple(
    f"{stem}.{ending}"
    for ending in ("safetensors", "bin")
    for stem in (ADAPTER, "pytorch_lora_weights")
)
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


@functools.cache
def _added(rules: tuple[Rule, ...]) -> tuple[tuple[re.Pattern[str], Rule], ...]:
    """Names of full differences, without prefixes -> the tensor that each is added to."""
    rows = []
    for rule in rules:
        module, _, last = rule.source.rpartition(".")
        if module and last in _DIFFERENCES:
            for name in (module, module.replace(".", "_")):
                pattern = re.escape(f"{name}.{_DIFFERENCES[last]}").replace(r"\{i\}", r"(\d+)")
                rows.append((re.compile(pattern), rule))
    return tuple(rows)


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
        return dataclasses.replace(parse_lora(source, names, config), file=str(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_lora(path: Path) -> tuple[TensorSource, Config]:
    """Opens a LoRA file, or the one in a folder, and finds the settings that belong to it.

    Raises:
      FileNotFoundError: no such file, or a folder without one.
      ValueError: no file of tensors, or damaged settings.
    """
    if path.is_dir():
        found = find_lora(path)
        if found is None:
            raise FileNotFoundError(
                f"{path} has no LoRA; expected {' or '.join(FOLDER_FILES)}; files there: "
                f"{listed(sorted(each.name for each in path.iterdir()))}."
            )
        path = found
    source = open_tensors(path)
    try:
        return source, {**settings_of(path, source.metadata), **fused.settings(source.metadata)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def find_lora(folder: Path) -> Path | None:
    """The LoRA in a folder that PEFT or Diffusers wrote."""
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


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
    differences: dict[Target, Difference] = {}
    layers = _modules(names)
    ignored, unknown = {}, []
    for name in source.tensors:
        for mark, kind in _UNSUPPORTED.items():
            if mark in name:
                raise ValueError(f"{name!r} belongs to {kind}; only LoRA can be merged: {WAY_OUT}.")
        reason = next((why for p, why in names.ignored.items() if re.fullmatch(p, name)), None)
        if reason is not None:
            ignored[name] = reason
            continue
        if name.rpartition(".")[2] in _DIFFERENCES.values():
            found = _difference(source, name, names)
            if found is None:
                kinds = f" ({listed(sorted({*names.inputs.values()}), 3)}?)" if names.inputs else ""
                ignored[name] = f"a full difference of a tensor that the model does not have{kinds}"
            elif found[0] in differences:
                raise ValueError(f"{name!r} and {differences[found[0]].name!r} are the same.")
            else:
                differences[found[0]] = found[1]
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
        _refuse(sorted(unknown), len(source.tensors), names, layers)
    if not groups and not differences:
        raise ValueError("it holds no LoRA: no entry is called lora_A, lora_down or alike.")
    _check_inputs(source, groups, names)
    modules: dict[Target, LowRank] = {}
    for targets, parts in groups.items():
        convolution = names.convolutions.get(targets[0].path)
        adapter = _adapter(source, targets[0], parts, config or {}, convolution)
        if "bias" in parts:
            target, difference = _bias(source, targets, parts["bias"], adapter, names)
            if target in differences:
                raise ValueError(
                    f"{parts['bias']!r} and {differences[target].name!r} are the same."
                )
            differences[target] = difference
        for target, one in zip(targets, fused.parts(adapter, len(targets)), strict=True):
            if target in modules:
                raise ValueError(f"{target} has two adapters, one of them in a fused layer.")
            modules[target] = one
    reasons = listed(dict.fromkeys(ignored.values()), 3, "; ")
    remarks = [f"{len(ignored)} of its entries are not used: {reasons}; pusa-jax info lists them."]
    unscaled = [module for module in modules.values() if module.alpha is None]
    header = getattr(source, "metadata", {}) if unscaled else {}
    remark = header_remark(header, tuple(module.rank for module in unscaled))
    return LoRA(
        modules,
        ignored,
        differences=differences,
        remarks=(*(remarks if ignored else []), *([remark] if remark else [])),
    )


def _refuse(unknown: list[str], count: int, names: LoRANames, layers: Modules) -> NoReturn:
    """Raises ValueError for entries that are no part of an adapter."""
    whole = [n for n in unknown if _split(WHOLE.sub("", n), layers)[0] and WHOLE.search(n)]
    if whole:
        raise ValueError(
            f"{whole[0]!r} is a whole tensor, as models hold and PEFT keeps of modules_to_save "
            f"or bias; only LoRA can be merged: {WAY_OUT}."
        )
    raise ValueError(
        f"{len(unknown)} of {count} entries belong to no layer of {names.model}: "
        f"{listed([repr(name) for name in unknown], 3)}."
    )


def _bias(
    source: TensorSource,
    targets: tuple[Target, ...],
    name: str,
    adapter: LowRank,
    names: LoRANames,
) -> tuple[Target, Difference]:
    """What an adapter whose up factor has a bias adds to that of its layer, at strength 1."""
    layer, *others = targets
    target = layer._replace(path=f"{layer.path}/bias")
    if others or all(rule.target != target.path for rule in names.tensors):
        raise ValueError(f"{name!r} is a bias, {layer} has none in {names.model}: {WAY_OUT}.")
    scale = 1.0 if adapter.alpha is None else adapter.alpha / adapter.rank
    array = source.read(name).astype(np.float32) * np.float32(scale)
    return target, Difference(array, name)


def _check_inputs(
    source: TensorSource,
    groups: Mapping[tuple[Target, ...], Mapping[Part, str]],
    names: LoRANames,
) -> None:
    """Raises ValueError if the first layer takes the channels of a model of another kind."""
    for (target, *_), parts in groups.items():
        shape = source.tensors[parts["down"]].shape if "down" in parts else ()
        if target.path in names.convolutions and len(shape) == 5 and shape[1] in names.inputs:
            raise ValueError(
                f"it is a LoRA of {names.inputs[shape[1]]} ({parts['down']!r} takes {shape[1]} "
                f"channels); use the one for {names.model} of text-to-video."
            )


def _difference(
    source: TensorSource, name: str, names: LoRANames
) -> tuple[Target, Difference] | None:
    """Where an entry is added as it is; None if the model has no such tensor."""
    short = _without_prefixes(name)
    for pattern, rule in _added(names.tensors):
        if match := pattern.fullmatch(short):
            array = source.read(name)
            if rule.target.removesuffix("/kernel") in names.convolutions:
                if array.ndim != 5 or array.shape[1] in names.inputs:
                    return None
            elif rule.transform is DROP_FIRST and array.shape[:1] != (1,):
                return None
            layer = int(match[1]) if match.groups() else None
            return Target(rule.target, layer), Difference(rule.transform.to_leaf(array), name)
    return None


def _without_prefixes(module: str) -> str:
    while stripped := next((p for p in PREFIXES if module.startswith(p)), None):
        module = module.removeprefix(stripped)
    flat = next((p for p in FLAT_PREFIXES if module.startswith(p)), "")
    return module.removeprefix(flat)


def _split(name: str, modules: Modules) -> tuple[tuple[Target, ...], Part | None]:
    """Layers and part that an entry belongs to, as far as they are known."""
    module, part = name, None
    for ending, kind in _PARTS:
        if match := re.fullmatch(f"(.+?){ending}", name):
            module, part = match[1], kind
            break
    module = _without_prefixes(module)
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
        configured = configured_alpha(module, rank, config)
        return LowRank(down, up, configured, names["down"], names["up"])
    alpha = source.read(names["alpha"])
    if alpha.size != 1:
        raise ValueError(f"alpha of {target} must be one number, got shape {list(alpha.shape)}.")
    value = float(alpha.reshape(()))
    if not math.isfinite(value):
        raise ValueError(f"alpha of {target} must be a number, got {value} in {names['alpha']!r}.")
    return LowRank(down, up, value, names["down"], names["up"])


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

    Raises:
      ValueError: a value would not be finite, or the model has no layers that `naming` names.
    """
    with np.errstate(over="ignore"):  # told below
        if naming == "genmo":
            arrays = fused.tensors(lora, names, dtype)
        else:
            arrays = _factors(lora, names, naming, dtype)
            arrays |= _named_differences(lora, names, naming, dtype)
    for name, array in arrays.items():
        if count := nonfinite(array):
            raise ValueError(
                f"{lora.file or 'the LoRA'}: {count} of {array.size} values of {name} would be NaN "
                f"or infinite in {array.dtype}; fetch the file again, or make it again."
            )
    return ArrayTensors(arrays)


def _factors(
    lora: LoRA, names: LoRANames, naming: Naming, dtype: DTypeLike
) -> dict[str, np.ndarray]:
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
    return arrays


def _named_differences(
    lora: LoRA, names: LoRANames, naming: Naming, dtype: DTypeLike
) -> dict[str, np.ndarray]:
    """Full differences under the names that other tools know."""
    rules = {rule.target: rule for rule in reversed(names.tensors)}
    prefix = NAMING[naming].partition("{layer}")[0].format(prefix=names.prefix)
    arrays = {}
    for target, difference in lora.differences.items():
        rule = rules[target.path]
        module, _, last = rule.source.rpartition(".")
        name = f"{prefix}{module}.{_DIFFERENCES[last]}".replace("{i}", str(target.layer))
        arrays[name] = rule.transform.to_torch(difference.array).astype(dtype)
    return arrays


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
