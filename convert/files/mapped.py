"""Where tensors are: in files, mapped when they are read, or in memory."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pusa_jax.convert.tables import Index, Shape, TensorInfo


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file.

    Attributes:
      path: the file.
      offset: first byte of the tensor's first element.
      strides: elements (not bytes) from one entry to the next along each axis.
    """

    path: Path
    offset: int
    shape: Shape
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def extent(self) -> int:
        """Number of elements from the first to the last one, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    def read(self, index: Index | None = None) -> np.ndarray:
        """The tensor, or a part of it, mapped read-only; copy what must outlive the file."""
        if self.extent == 0:
            array = np.empty(self.shape, self.dtype)
        else:
            flat = np.memmap(self.path, self.dtype, "r", self.offset, (self.extent,))
            strides = [s * self.dtype.itemsize for s in self.strides]
            array = np.lib.stride_tricks.as_strided(
                flat.view(np.ndarray), self.shape, strides, writeable=False
            )
        return array if index is None else array[index]


@dataclasses.dataclass(frozen=True)
class FileTensors:
    """The tensors of one or several files.

    Attributes:
      stored: name -> place in a file.
      metadata: the `__metadata__` of a single safetensors file, else empty.
    """

    stored: Mapping[str, Stored]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(s.shape, s.dtype) for name, s in self.stored.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype."""
        return self._infos

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """Maps one tensor, or a part of it, read-only."""
        return self.stored[name].read(index)


@dataclasses.dataclass(frozen=True)
class ArrayTensors:
    """Tensors that are in memory already.

    Attributes:
      arrays: name -> tensor in PyTorch layout.
      metadata: text entries that go with them.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype."""
        return {name: TensorInfo(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """One tensor, or a part of it."""
        return self.arrays[name] if index is None else self.arrays[name][index]


def contiguous(shape: Shape | list[int]) -> tuple[int, ...]:
    """Strides in elements of an array stored row by row."""
    strides = [1]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides[: len(shape)]))


def bytes_of(array: np.ndarray) -> memoryview:
    """The values of an array row by row, as raw bytes; copies only what is not in that order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
