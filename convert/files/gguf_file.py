"""GGUF files, by the reader on PyPI: blocks of few bits, multiplied out as they are read."""

import dataclasses
import functools
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pusa_jax.convert.tables import Index, TensorInfo

PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
"""Types that are no blocks."""

TEXT = "token_embd.weight"
"""A tensor by which llama.cpp's names of a text encoder are known."""

TEXT_NAMES = {
    "enc.": "encoder.", ".blk.": ".block.", "token_embd": "shared",
    "output_norm": "final_layer_norm", "attn_norm": "layer.0.layer_norm",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v", "attn_o": "layer.0.SelfAttention.o",
    "ffn_norm": "layer.1.layer_norm", "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1", "ffn_down": "layer.1.DenseReluDense.wo",
}  # fmt: skip
"""Parts of llama.cpp's names -> those of transformers."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Before the name of a tensor: where a file keeps a shape that the format could not."""


@dataclasses.dataclass(frozen=True)
class GGUFTensors:
    """The tensors of a GGUF file.

    Attributes:
      path: the file.
      fields: name -> tensor of the reader.
      shapes: name -> shape in PyTorch's order.
      prefix: what was dropped from all names.
      metadata: empty; for the sake of other sources.
    """

    path: Path
    fields: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype."""
        return self._infos

    @functools.cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(
                self.shapes[name], np.dtype(PLAIN.get(field.tensor_type.name, np.float32))
            )
            for name, field in self.fields.items()
        }

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """One tensor, or a part of it; blocks are read whole."""
        from gguf import quants  # pyright: ignore[reportMissingImports]

        field, info = self.fields[name], self.tensors[name]
        if field.tensor_type.name in PLAIN:
            array = np.ascontiguousarray(field.data).view(np.uint8).reshape(-1).view(info.dtype)
        else:
            array = quants.dequantize(field.data, field.tensor_type)
        array = array.reshape(info.shape)
        return array if index is None else array[index]

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.path

    def sizes(self) -> dict[str, int]:
        """Name and bytes of the file."""
        return {self.path.name: self.path.stat().st_size}


def open_gguf(path: Path) -> GGUFTensors:
    """Opens a GGUF file; reads its table of contents only.

    Raises:
      ValueError: the reader is not installed, or the file is damaged.
    """
    try:
        from gguf import GGUFReader  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{path} is a GGUF file, which the package gguf reads: pip install 'pusa_jax[gguf]'."
        ) from None
    try:
        reader = GGUFReader(path)
        fields = {field.name: field for field in reader.tensors}
        shapes = {}
        for name, field in fields.items():
            own = reader.get_field(f"{ORIGINAL_SHAPE}{name}")
            sizes = [p[0] for p in own.parts[-len(own.data) :]] if own else reversed(field.shape)
            shapes[name] = tuple(int(n) for n in sizes)
            if np.prod(shapes[name], dtype=object) != np.prod(field.shape, dtype=object):
                raise ValueError(f"{name!r:.80} has two shapes")
    except (ValueError, LookupError, TypeError, OverflowError, struct.error, OSError) as error:
        raise ValueError(f"{path} is damaged or no GGUF file ({error!r:.150}).") from None
    if TEXT in fields:
        names = {name: _transformers_name(name) for name in fields}
        fields = {names[name]: field for name, field in fields.items()}
        shapes = {names[name]: shape for name, shape in shapes.items()}
    return GGUFTensors(path, fields, shapes)


def _transformers_name(name: str) -> str:
    for theirs, ours in TEXT_NAMES.items():
        name = name.replace(theirs, ours, 1)
    return name
