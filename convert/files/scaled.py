"""Weights stored in 8 bits with scales, seen as the numbers they stand for.

    W = q * scale        one scale for a tensor, a row, or a block of rows and columns

Programs name the scale of `X.weight` differently, and put other entries beside it that matter for
their arithmetic only. Nothing is read without the scale that belongs to it; what is packed in
another way is named and refused.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.tables import Index, TensorInfo

SCALES = ("scale_weight", "weight_scale", "weight_scale_inv", "weight._scale")
"""What multiplies the weight of a module: ComfyUI's old and new name, DeepSeek's, quanto's."""

SECOND_SCALES = ("scale_weight_tensor",)
"""Further factors: musubi-tuner's for files with blocks."""

QUANTO = "weight._data"
"""What quanto calls the numbers of a weight."""

UNUSED = ("scale_input", "input_scale", "output_scale", "comfy_quant")
"""Entries of a module that say how other programs compute with it."""

MARKERS = re.compile(r"(.*\.)?scaled_fp8")
"""The tensor by which ComfyUI's older files say that they have scales."""

FORMATS = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int8_tensorwise": np.dtype(np.int8),
    "int8_blockwise": np.dtype(np.int8),
    "int8_rowwise": np.dtype(np.int8),
}
"""ComfyUI's names of formats -> type of the numbers, which may lie in a container of bytes."""

PACKED = {
    r"(.*)\.quant_state\.bitsandbytes__\w+": "bitsandbytes, 4 bits",
    r"(.*)\.(SCB|weight_format)": "bitsandbytes, 8 bits",
    r"(.*)\.(absmax|nested_absmax|quant_map)": "bitsandbytes",
    r"(.*)\.weight_scale_2": "NVFP4, 4 bits",
    r"(.*)\.(qzeros|g_idx)": "GPTQ or AWQ, 4 bits",
    r"(.*)\.(wscales|smooth_factor|proj_down|qweight)": "SVDQuant or GPTQ, 4 bits",
}
"""Entries of packings that are not read -> their names."""


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """How a tensor is stored: names of its numbers and factors, and the type of the numbers."""

    numbers: str
    scale: str
    seconds: tuple[str, ...]
    kind: np.dtype


@dataclasses.dataclass(frozen=True)
class ScaledTensors:
    """The tensors of a file with scales, multiplied out in float32 as they are read."""

    stored: FileTensors
    scaled: Mapping[str, _Scaled]
    dropped: frozenset[str]

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text entries of the file."""
        return self.stored.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype of what is read."""
        return self._infos

    @functools.cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        found = {n: t for n, t in self.stored.tensors.items() if n not in self.dropped}
        for name, scaled in self.scaled.items():
            shape = self.stored.tensors[scaled.numbers].shape
            found[name] = TensorInfo(shape, np.dtype(np.float32))
        return found

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """One tensor, or a part of it."""
        if name not in self.scaled:
            return self.stored.read(name, index)
        how = self.scaled[name]
        shape = self.stored.tensors[how.numbers].shape
        numbers = self.stored.read(how.numbers, index)
        if numbers.dtype != how.kind:
            numbers = numbers.view(how.kind)
        factor = np.float32(1)
        for second in how.seconds:
            factor *= np.float32(self.stored.read(second).reshape(()))
        scale = _grid(self.stored.read(how.scale), shape) * factor
        return numbers.astype(np.float32) * _spread(scale, shape, index)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.stored.file_of(self.scaled[name].numbers if name in self.scaled else name)

    def sizes(self) -> dict[str, int]:
        """Name and bytes of the files that hold the tensors."""
        return self.stored.sizes()


def multiplied_out(source: FileTensors) -> FileTensors | ScaledTensors:
    """A file as the numbers it stands for; itself, if it has no scales.

    Raises:
      ValueError: it is packed in a way that is not read, or a scale is missing or does not fit.
    """
    names = source.tensors
    for name in names:
        for pattern, kind in PACKED.items():
            if match := re.fullmatch(pattern, name):
                raise ValueError(
                    f"its weights are packed ({kind}: {name!r} belongs to {match[1]!r}), which is "
                    "not read; use the file in bfloat16, float16, fp8 or int8 with scales."
                )
    formats = _formats(source)
    scaled: dict[str, _Scaled] = {}
    dropped = {name for name in names if MARKERS.fullmatch(name)}
    is_marked = bool(dropped)
    for name in names:
        module, _, ending = next(
            (p for p in (name.rpartition(f".{s}") for s in SCALES) if p[1] and not p[2]),
            ("", "", ""),
        )
        if not module and not ending and name not in SCALES:
            continue
        numbers = f"{module}.{QUANTO}" if f"{module}.{QUANTO}" in names else f"{module}.weight"
        if numbers not in names or f"{module}.weight" in scaled:
            raise ValueError(f"the scale {name!r} belongs to no weight, or to one with two scales.")
        seconds = tuple(s for s in (f"{module}.{x}" for x in SECOND_SCALES) if s in names)
        kind = formats.get(module, names[numbers].dtype)
        scaled[f"{module}.weight"] = _Scaled(numbers, name, seconds, kind)
        dropped |= {name, numbers, *seconds}
    for name in names:
        if any(name.endswith(f".{ending}") for ending in UNUSED):
            dropped.add(name)
    is_marked = is_marked or bool(formats) or bool(scaled)
    for name, info in names.items():
        module = name.removesuffix(".weight")
        is_narrow = info.dtype.itemsize == 1 and info.dtype != np.bool_
        # Eight bits of a floating type alone are numbers; whole ones are nothing without a scale.
        is_lost = is_narrow and (is_marked or np.issubdtype(info.dtype, np.integer))
        needs = module in formats or (is_lost and len(info.shape) == 2)
        if name.endswith(".weight") and needs and name not in scaled:
            raise ValueError(
                f"{name!r} is {info.dtype} and has no scale, without which all of it would be "
                "wrong; fetch the file again."
            )
    for how in scaled.values():
        _check(source, how)
    return ScaledTensors(source, scaled, frozenset(dropped)) if dropped else source


def _check(source: FileTensors, how: _Scaled) -> None:
    numbers, scale = source.tensors[how.numbers], source.tensors[how.scale]
    if not jnp.issubdtype(scale.dtype, jnp.floating) or scale.dtype.itemsize < 2:
        raise ValueError(f"the scale {how.scale!r} is {scale.dtype}, must be a floating type.")
    if numbers.dtype.itemsize != how.kind.itemsize:
        raise ValueError(f"{how.numbers!r} is {numbers.dtype}, which cannot hold {how.kind}.")
    if how.kind == np.uint8:
        raise ValueError(f"{how.numbers!r} holds bytes, and nothing says of which format.")
    for second in how.seconds:
        if source.tensors[second].shape not in ((), (1,)):
            raise ValueError(f"{second!r} must be one number.")
    _grid(np.empty(scale.shape, np.int8), numbers.shape, how.scale)


def _grid(scale: np.ndarray, shape: tuple[int, ...], name: str = "scale") -> np.ndarray:
    """A scale of any published shape, with as many axes as the tensor, which it cuts into blocks.

    Raises:
      ValueError: its blocks do not cut up a tensor of this shape.
    """
    grid = scale if np.dtype(scale.dtype).itemsize == 1 else scale.astype(np.float32)
    if grid.size == 1:
        return grid.reshape((1,) * len(shape))
    if grid.ndim == 3 and len(shape) == 2 and grid.shape[2] == 1:
        grid = grid[:, :, 0]
    if grid.ndim == 1:
        grid = grid.reshape(-1, *(1,) * (len(shape) - 1))
    if grid.ndim != len(shape) or any(
        not n or size % n for n, size in zip(grid.shape, shape, strict=True)
    ):
        raise ValueError(
            f"{name!r} of shape {list(scale.shape)} does not fit a weight of {list(shape)}."
        )
    return grid


def _spread(grid: np.ndarray, shape: tuple[int, ...], index: Index | None) -> np.ndarray:
    """The scale of every value of a tensor, or of a part of it; axes of one block stay 1 long."""
    for axis, (n, size) in enumerate(zip(grid.shape, shape, strict=True)):
        if n == 1:
            continue
        rows = np.arange(size)[index[axis]] if index else np.arange(size)
        grid = np.take(grid, rows // (size // n), axis)
    return grid


def _formats(source: FileTensors) -> dict[str, np.dtype]:
    """Module -> type of its numbers, where the file says so in its header or beside the weight.

    Raises:
      ValueError: a format that is not read, or a damaged note.
    """
    said: dict[str, str] = {}
    try:
        header = json.loads(source.metadata.get("_quantization_metadata", "{}"))
        said |= {module: str(how["format"]) for module, how in header.get("layers", {}).items()}
        for name in source.tensors:
            if name.endswith(".comfy_quant"):
                note = json.loads(source.read(name).tobytes())
                said[name.removesuffix(".comfy_quant")] = str(note["format"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"what it says of its quantisation is damaged ({error!r:.80}).") from None
    modules = {n.removesuffix(".weight") for n in source.tensors if n.endswith(".weight")}
    found = {}
    for module, kind in said.items():
        if kind not in FORMATS:
            raise ValueError(
                f"{module!r} is stored as {kind!r:.40}; read are {', '.join(FORMATS)}."
            )
        # The header keeps the names that the file had before its prefix was dropped.
        while module not in modules and "." in module:
            module = module.partition(".")[2]
        if module in modules:
            found[module] = FORMATS[kind]
    return found
