"""Lets an experiment run where jaxtyping is not installed: shapes in signatures then say nothing.

They are checked in the tests only; what is measured does not depend on them. To be called before
anything of pusa_jax is imported.
"""

import importlib
import sys
import types


class _Anything:
    """Stands for any array type: `Float[Array, "B N"]`."""

    def __class_getitem__(cls, item: object) -> type:
        """Itself, whatever the shape."""
        return cls


def do_without_jaxtyping() -> None:
    """Puts a stand-in where jaxtyping would be, if it is missing."""
    try:
        importlib.import_module("jaxtyping")
    except ImportError:
        module = types.ModuleType("jaxtyping")
        module.__getattr__ = lambda name: _Anything
        sys.modules["jaxtyping"] = module
