"""Reads files of `torch.save`, without PyTorch and without executing anything.

A `.pth` file is a zip archive with one pickle, which says how tensors are cut from storages, and
one uncompressed record of raw bytes per storage. The unpickler below knows the handful of names
such a pickle needs and puts something inert in place of each; every other name is refused before it
is looked up, so nothing is imported and no foreign function is called. The result is checked then.
"""

import io
import math
import pickle
import re
import reprlib
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensor, FileTensors, MappedFile
from pusa_jax.files import claims
from pusa_jax.listing import listed

STORAGES = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip
"""Storage classes of the `torch` module -> NumPy types."""

UNTYPED = "UntypedStorage"
"""Storage class of tensors of newer types, which name their type themselves."""

NEWER_TYPES = {
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip
"""Types of the `torch` module that have no storage class -> NumPy types."""

KINDS = STORAGES | NEWER_TYPES

PACKED = re.compile(
    r"(torchao|optimum|quanto|bitsandbytes|torch\.distributed)\..*|"
    r"torch\._tensor\._rebuild_from_type(_v2)?|"
    r"torch\._utils\._rebuild_(wrapper_subclass|qtensor|device_tensor.*|sparse_tensor)"
)
"""Names that pickles of packed, quantised or distributed tensors ask for."""

NESTINGS = ("ema", "model_state", "state_dict", "model", "module")
"""Entries under which a file may keep its tensors, beside other entries; of several that hold
nothing but tensors the first is taken."""

PICKLE_LIMIT = 2**22
"""Largest pickle accepted, in bytes; that of the 14B model has some hundred thousand."""

DIRECTORY_LIMIT = 2**23
"""Largest table of contents of an archive, in bytes; an entry has about a hundred."""

MALFORMED = (
    zipfile.BadZipFile, zlib.error, OSError, pickle.UnpicklingError, EOFError, AttributeError,
    LookupError, TypeError, ValueError, OverflowError, MemoryError, RuntimeError, struct.error,
)  # fmt: skip
"""What `zipfile` and `pickle` raise for bytes that are not what they expect."""


class _Storage(NamedTuple):
    """A record of the archive: its key and the name of its storage class."""

    key: Any
    kind: Any


class Tensor(NamedTuple):
    """A tensor as the pickle describes it; offset and strides in elements of the storage."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any

    @property
    def is_valid(self) -> bool:
        """Whether all parts are of the right type, and the numbers in range."""
        if not (isinstance(self.shape, tuple) and isinstance(self.strides, tuple)):
            return False
        numbers = (self.offset, *self.shape, *self.strides)
        return (
            isinstance(self.storage, _Storage)
            and isinstance(self.storage.key, str)
            and isinstance(self.storage.kind, str)
            and self.storage.kind in KINDS
            and len(self.shape) == len(self.strides) <= 32
            and all(type(n) is int and 0 <= n < 2**60 for n in numbers)
            and math.prod(max(n, 1) for n in self.shape) < 2**60
        )


class _ForbiddenError(Exception):
    """The pickle asks for a name that is not needed to describe tensors."""


class _RebuildTensor:
    """Stands in for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *_unused) -> Tensor:
        return Tensor(storage, offset, shape, strides)


class _RebuildTypedTensor:
    """Stands in for `torch._utils._rebuild_tensor_v3`."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, _grad, _hooks, kind, *_unused) -> Tensor:
        return Tensor(_Storage(storage.key, kind), offset, shape, strides)


class _MakeDict:
    """Stands in for `OrderedDict`, which is always empty at first."""

    __slots__ = ()

    def __call__(self) -> OrderedDict:
        return OrderedDict()


class _MakeShape:
    """Stands in for `torch.Size`."""

    __slots__ = ()

    def __call__(self, sizes) -> tuple:
        return tuple(sizes)


class _RebuildParameter:
    """Stands in for `torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor, *_unused):
        return tensor


_FORBIDDEN = {
    pickle.DUP, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST,
    pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.LONG, pickle.INT, pickle.PERSID,
}  # fmt: skip
"""Opcodes that PyTorch never writes and that make much of little."""


_InPython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


class Unpickler(_InPython):
    """Turns the pickle into dicts of `Tensor`.

    All stand-ins are immutable, so that no pickle can change them for the next one. It is the one
    written in Python, because the one in C allocates what a pickle claims to remember and computes
    hashes of whatever is a key: keys are strings here, each comes once, and there are no sets.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in _InPython.dispatch.items() if bytes([code]) not in _FORBIDDEN
    }

    def _set(self, table: Any, key: Any, value: Any) -> None:
        if type(table) not in (dict, OrderedDict) or type(key) not in (str, int):
            raise ValueError("an entry has no name")
        if key in table:
            raise ValueError(f"two entries are called {key!r:.80}")
        table[key] = value

    def load_setitem(self):
        """One entry of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], key, value)

    def load_setitems(self):
        """Several entries of a dict."""
        items = self.pop_mark()
        for i in range(0, len(items) - 1, 2):
            self._set(self.stack[-1], items[i], items[i + 1])

    def load_dict(self):
        """A dict with its entries."""
        items, table = self.pop_mark(), {}
        for i in range(0, len(items) - 1, 2):
            self._set(table, items[i], items[i + 1])
        self.append(table)

    def load_build(self):
        """What is set on an object is of no use; only OrderedDict may have such things."""
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:
            raise ValueError("it changes what it is made of")

    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = load_setitem, load_setitems
    dispatch[pickle.DICT[0]], dispatch[pickle.BUILD[0]] = load_dict, load_build

    def find_class(self, module: str, name: str):
        """What stands in for a name; every other name is refused."""
        match module, name:
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return _RebuildTensor()
            case "torch._utils", "_rebuild_tensor_v3":
                return _RebuildTypedTensor()
            case "torch.storage", "UntypedStorage":
                return UNTYPED
            case "torch", _ if name in NEWER_TYPES:
                return name
            case "torch._utils", "_rebuild_parameter":
                return _RebuildParameter()
            case "collections", "OrderedDict":
                return _MakeDict()
            case "torch", "Size":
                return _MakeShape()
            case "torch", _ if name in STORAGES:
                return name
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, pid) -> _Storage:
        """The storage that a tensor is cut from."""
        _, kind, key, _, _ = pid
        return _Storage(key, kind)


def open_torch_zip(path: Path, *, is_nested: bool = False) -> FileTensors:
    """Opens a `.pth` or `.pt` file: a dict of tensors, or one under an entry of `NESTINGS`.

    Args:
      path: the file.
      is_nested: the dict may hold dicts; names are then joined by dots.

    Raises:
      ValueError: the file is cut short, not such an archive, holds something other than tensors, or
        asks for a Python name that tensors do not need (named in the message).
    """
    return open_archive(
        path,
        Unpickler,
        lambda content: _state_dict(_flat(content) if is_nested else content, path),
    )


def open_archive(
    path: Path,
    unpickler: type[Unpickler],
    tensors_in: Callable[[Any], tuple[str, Mapping[str, Tensor]]],
) -> FileTensors:
    """Opens a zip archive of a pickle and storages.

    Args:
      path: the file.
      unpickler: makes something inert of the pickle.
      tensors_in: finds the entry that holds tensors, if one does, and the tensors by their names in
        what it made; may raise ValueError.

    Raises:
      ValueError: see `open_torch_zip`.
    """
    with path.open("rb") as file:
        try:
            check_directory(file)
            with zipfile.ZipFile(file) as archive:
                records = {info.filename: info for info in archive.infolist()}
                (pickled,) = (name for name in records if name.split("/")[1:] == ["data.pkl"])
                root = pickled.removesuffix("data.pkl")
                order = records.get(root + "byteorder")
                if order and (order.file_size > 9 or archive.read(order) != b"little"):
                    raise ValueError("it is stored big-endian")
                if records[pickled].file_size > PICKLE_LIMIT:
                    raise ValueError("its pickle is too large")
                content = unpickler(io.BytesIO(archive.read(pickled))).load()
        except _ForbiddenError as error:
            if PACKED.fullmatch(str(error)):
                raise ValueError(
                    f"{path} holds tensors of a kind of their own ({str(error)!r:.80}: torchao, "
                    "quanto or a distributed tensor), which is not read; use the file in bfloat16, "
                    "float16, fp8 or int8 with scales."
                ) from None
            raise ValueError(
                f"{path} asks for {str(error)!r}, which is no tensor; refused, because unpickling "
                "it could run foreign code. Save the state dict alone."
            ) from None
        except MALFORMED as error:
            raise ValueError(
                f"{path} is damaged or no PyTorch checkpoint of zip format ({error!r:.200}); fetch "
                "it again, or save it again with PyTorch 1.6 or newer."
            ) from None
        entry, tensors = tensors_in(content)
        keys = {tensor.storage.key for tensor in tensors.values()}
        found = {key: _record(file, records.get(f"{root}data/{key}"), path) for key in keys}
    mapped = MappedFile(path)
    entries = {name: _entry(mapped, name, t, found) for name, t in tensors.items()}
    claims.check_tensors(path, sum(math.prod(t.shape) * t.dtype.itemsize for t in entries.values()))
    return FileTensors(entries, entry=entry)


def check_directory(file: io.BufferedReader) -> None:
    """Holds the size of an archive's table of contents against the limit, before it is read."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 2**16 - 22, 0))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    (directory,) = struct.unpack("<L", end[at + 12 : at + 16]) if at >= 0 else (0,)
    if directory == 2**32 - 1 and (long := end.rfind(b"PK\6\6")) >= 0:
        (directory,) = struct.unpack("<Q", end[long + 40 : long + 48])
    if directory > DIRECTORY_LIMIT:
        raise ValueError("its table of contents is too large")
    file.seek(0)


def _flat(content: Any, prefix: str = "", depth: int = 2) -> Any:
    """Dicts and lists of tensors become entries; deeper than `depth` they stay, as no tensors."""
    if isinstance(content, list) and content and all(isinstance(x, Tensor) for x in content):
        content = {str(i): x for i, x in enumerate(content)}
    if not isinstance(content, dict) or not depth:
        return content
    flat = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        inner = _flat(value, f"{name}.", depth - 1)
        flat |= inner if isinstance(inner, dict) and depth > 1 else {name: inner}
    return flat


def _state_dict(content: Any, path: Path) -> tuple[str, Mapping[str, Tensor]]:
    """The entry that holds the tensors, "" if none does, and the tensors."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    nested = [key for key in NESTINGS if isinstance(content.get(key), dict)]
    whole = (key for key in nested if content[key] and not _no_tensors(content[key]))
    entry = next(whole, nested[0] if nested else "")
    state = content[entry] if entry else content
    wrong = _no_tensors(state)
    if wrong or not state:
        raise ValueError(
            f"{path} must hold a dict of tensors, alone or under {', '.join(NESTINGS)}; of its "
            f"{len(state)} entries {len(wrong)} are no tensors: {listed(wrong, 5)}."
        )
    return entry, state


def _no_tensors(state: dict[Any, Any]) -> list[str]:
    return [
        f"{reprlib.repr(key):.80}"
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.is_valid)
    ]


def _record(file: io.BufferedReader, info: zipfile.ZipInfo | None, path: Path) -> tuple[int, int]:
    """First byte and number of bytes of a storage; its local header may be padded."""
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path} is damaged: a storage record is missing or compressed.")
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise ValueError(f"{path} is damaged: {info.filename!r} is not where the archive says.")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > path.stat().st_size:
        raise ValueError(f"{path} is cut short inside {info.filename!r}; fetch it again.")
    return start, info.file_size


def _entry(
    mapped: MappedFile, name: str, tensor: Tensor, records: Mapping[str, tuple[int, int]]
) -> FileTensor:
    start, size = records[tensor.storage.key]
    dtype = np.dtype(KINDS[tensor.storage.kind])
    offset = start + tensor.offset * dtype.itemsize
    entry = FileTensor(mapped, offset, tensor.shape, tensor.strides, dtype)
    if (tensor.offset + entry.extent) * dtype.itemsize > size:
        raise ValueError(f"{mapped.path} is damaged: tensor {name!r} reaches beyond its storage.")
    return entry
