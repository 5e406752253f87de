"""Where tensors are: in files, of which each is mapped once, or in memory."""

import dataclasses
import functools
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pusa_jax.convert.tables import Index, Shape, TensorInfo

RESIDENT_BYTES = 2**25
"""After so many bytes a mapping lets go of the pages that were looked at; they are read again when
they are needed. So the pages of a large file do not pile up in the memory of the process."""


class MappedFile:
    """A file whose bytes are read when they are looked at; it is opened once, when first needed."""

    def __init__(self, path: Path):
        """Takes the name; opens nothing yet."""
        self.path = path
        self._mapping: mmap.mmap | None = None
        self._given = 0

    def part(self, offset: int, size: int) -> np.ndarray:
        """Some bytes of the file, uint8 [size], read-only.

        Raises:
          FileNotFoundError: the file is not there any more.
          ValueError: it has become shorter since its table of contents was read.
        """
        if self._mapping is None:
            with self.path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._mapping) < offset + size:
            raise ValueError(f"{self.path} has become shorter since it was opened; fetch it again.")
        self._given += size
        if self._given > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._given = size
        return np.frombuffer(self._mapping, np.uint8, size, offset)


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """Where a tensor lies in a file.

    Attributes:
      file: shared by all tensors in it.
      offset: first byte of the tensor's first element.
      strides: elements (not bytes) from one entry to the next along each axis.
    """

    file: MappedFile
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
        """The tensor, or a part of it, read-only and in the file until it is looked at."""
        if self.extent == 0:
            array = np.empty(self.shape, self.dtype)
        else:
            flat = self.file.part(self.offset, self.extent * self.dtype.itemsize)
            strides = [s * self.dtype.itemsize for s in self.strides]
            # NumPy does not know float8_e5m2 by the code that as_strided hands on.
            bits = flat.view(f"u{self.dtype.itemsize}")
            array = np.lib.stride_tricks.as_strided(bits, self.shape, strides, writeable=False)
            array = array.view(self.dtype)
        return array if index is None else array[index]


@dataclasses.dataclass(frozen=True)
class FileTensors:
    """The tensors of one or several files.

    Attributes:
      entries: name -> place in a file.
      metadata: the `__metadata__` of a single safetensors file, else empty.
      entry: under which a single PyTorch file keeps them, beside others; empty if it has no such.
    """

    entries: Mapping[str, FileTensor]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    entry: str = ""

    @functools.cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(t.shape, t.dtype) for name, t in self.entries.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype."""
        return self._infos

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """One tensor, or a part of it, read-only; copy what must outlive a change of the file."""
        return self.entries[name].read(index)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.entries[name].file.path

    def sizes(self) -> dict[str, int]:
        """Name and bytes of the files that hold the tensors."""
        paths = {tensor.file.path for tensor in self.entries.values()}
        return {path.name: path.stat().st_size for path in sorted(paths)}


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
