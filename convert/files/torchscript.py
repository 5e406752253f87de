"""Reads the weights of a TorchScript archive (`torch.jit.save`), without PyTorch and its code.

Such an archive is that of `torch_zip` with more in it: programs under `code/`, which are not looked
at, and a pickle that holds a tree of modules instead of a dict. A module is an object of a class
`__torch__...` whose state is a dict of attributes: tensors, modules, and plain values beside them.
The unpickler makes tables of attributes of these objects, whatever their classes are called.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.files.torch_zip import (
    MALFORMED,
    Tensor,
    Unpickler,
    check_directory,
    open_archive,
)

PROGRAM = "constants.pkl"
"""Record that an archive of a program has, and one of a state dict has not."""

DEPTH = 32
"""Modules within modules, at most."""

ATTRIBUTES = 2**17
"""Attributes of all modules, at most; a shared module counts wherever it is."""

NAME = 256
"""Characters of an attribute's name, at most."""


class _Class:
    """Stands in for any class of modules."""

    __slots__ = ()


class _Module:
    """An object of such a class: a table of attributes, set once."""

    __slots__ = ("attributes",)

    def __init__(self):
        self.attributes: dict[Any, Any] | None = None


class _AsItIs:
    """Stands in for functions that make a list of a list, or say the type of its entries."""

    __slots__ = ()

    def __call__(self, value, *_unused):
        return value


_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class _ModuleUnpickler(Unpickler):
    """Turns the pickle into `_Module`s of `Tensor`s and plain values."""

    dispatch: ClassVar[dict[int, Any]] = dict(Unpickler.dispatch)

    def load_newobj(self):
        arguments, kind = self.stack.pop(), self.stack.pop()
        if type(kind) is not _Class or type(arguments) is not tuple or arguments:
            raise ValueError("it makes something other than a module")
        self.append(_Module())

    def load_build(self):
        module = self.stack[-2]
        if type(module) is not _Module:
            return super().load_build()
        state = self.stack.pop()
        if type(state) is not dict or module.attributes is not None:
            raise ValueError("a module has no attributes, or has them twice")
        module.attributes = state

    dispatch[pickle.NEWOBJ[0]], dispatch[pickle.BUILD[0]] = load_newobj, load_build

    def find_class(self, module: str, name: str):
        if module == "__torch__" or module.startswith("__torch__."):
            return _Class()
        if module == "torch.jit._pickle" and name in (*_LISTS, "restore_type_tag"):
            return _AsItIs()
        return super().find_class(module, name)


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of a program; what is damaged is none."""
    try:
        with path.open("rb") as file:
            check_directory(file)
            with zipfile.ZipFile(file) as archive:
                return any(name.split("/")[1:] == [PROGRAM] for name in archive.namelist())
    except MALFORMED:
        return False


def open_torchscript(path: Path) -> FileTensors:
    """Opens the parameters and buffers of a TorchScript archive, named as `state_dict` names them.

    Raises:
      ValueError: it is damaged, has no tensors, or asks for a Python name that neither tensors nor
        modules need.
    """
    return open_archive(path, _ModuleUnpickler, lambda content: ("", _tensors(content, path)))


def _tensors(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The tensors of a tree of modules; names of modules and tensor are joined by dots."""
    if type(content) is not _Module:
        raise ValueError(f"{path} holds a {type(content).__name__}, not a module of TorchScript.")
    found: dict[str, Tensor] = {}
    left, seen = [("", content, 0)], 0
    while left:
        prefix, module, depth = left.pop()
        attributes = module.attributes or {}
        seen += len(attributes)
        if seen > ATTRIBUTES or depth > DEPTH:
            raise ValueError(f"{path} is refused: its modules are too many, or hold each other.")
        for name, value in attributes.items():
            if type(name) is not str or len(name) > NAME:
                raise ValueError(f"{path} is damaged: an attribute is called {name!r:.80}.")
            if type(value) is _Module:
                left.append((f"{prefix}{name}.", value, depth + 1))
            elif type(value) is Tensor:
                if f"{prefix}{name}" in found or not value.is_valid:
                    raise ValueError(f"{path} is damaged: tensor {prefix}{name} is no tensor.")
                found[f"{prefix}{name}"] = value
    if not found:
        raise ValueError(
            f"{path} holds no named tensors; of a frozen module they are constants of its program: "
            "save it before it is frozen."
        )
    return found
