"""A model folder, published or converted, opened once and handed down."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.folders.candidates import main_folder
from pusa_jax.convert.folders.manifest import Converted, is_converted, open_converted
from pusa_jax.convert.folders.published import Published, open_published
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.listing import listed
from pusa_jax.models.family import Family, Name

EMBEDDED_TOKENIZER = "spiece_model"
"""The tensor in which ComfyUI's text encoders carry their tokenizer."""

Shard = Callable[[Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, jax.sharding.Sharding]]
"""Path -> shape of all leaves, to path -> sharding."""


class ModelFolder:
    """What a folder holds, found out once; values are read when a network is asked for.

    Attributes:
      path: the folder, or the file of one network.
      is_converted: whether it was written by `convert_folder`; otherwise it is published.
      family: of the networks.
      names: networks there are.
      boundary: noise level at which its experts change; None is the family's.
    """

    def __init__(self, path: str | Path):
        """Reads tables of contents only.

        Raises:
          FileNotFoundError, ValueError: one line saying what is missing or wrong.
        """
        self.path = main_folder(Path(path))
        self.is_converted = is_converted(self.path)
        self._found: Published | Converted = (
            open_converted(self.path) if self.is_converted else open_published(self.path)
        )
        self.family: Family = self._found.family
        self.names: tuple[Name, ...] = tuple(self._found.networks)
        self.boundary: float | None = self._found.boundary

    @property
    def first_levels(self) -> dict[Name, float]:
        """Denoiser -> first noise level that it serves, by the folder where it says so."""
        levels = dict(self.family.experts)
        if self.boundary is not None:
            levels[next(iter(levels))] = self.boundary
        return levels

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What is wrong with files in the folder that were passed over."""
        return getattr(self._found, "unreadable", ())

    def layout(self, name: Name) -> str:
        """Whose names a published network goes by; empty if it is converted."""
        return self._found.networks[name].layout if isinstance(self._found, Published) else ""

    def stored(self, name: Name) -> str:
        """How the tensors of a published network are stored, in words; empty if it is converted."""
        if not isinstance(self._found, Published):
            return ""
        source = self._found.networks[name].source
        kinds = sorted({str(info.dtype) for info in source.tensors.values()})
        scaled = len(getattr(source, "scaled", ()))
        packed = f", {scaled} of them multiplied out of 8 bits" if scaled else ""
        return f" from {len(source.tensors)} tensors of {', '.join(kinds)}{packed}"

    def config(self, name: Name) -> Any:
        """Configuration of one network.

        Raises:
          FileNotFoundError, ValueError: it is not there, or not understood.
        """
        self._need(name)
        return self._found.config(name)

    def shapes(self, name: Name) -> dict[str, jax.ShapeDtypeStruct]:
        """Path -> shape of every leaf of a network; raises as `config`."""
        return self.family.networks[name].shapes(self.config(name))

    def check(self, names: Iterable[Name] | None = None, dtype: DTypeLike | None = None) -> None:
        """Makes sure that networks can be loaded, reading none of their values.

        Args:
          names: the networks; default is all.
          dtype: what they are to be loaded in; default is what is stored.

        Raises:
          FileNotFoundError, ValueError: one line that names everything that is missing or wrong.
        """
        names = self.names if names is None else tuple(names)
        for name in names:
            self._need(name)
        self._found.check(names, dtype)

    def load(
        self, name: Name, dtype: DTypeLike | None = None, *, shard: Shard | None = None
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Reads one network.

        Args:
          name: which.
          dtype: float32 or bfloat16; default is what is stored.
          shard: every device then reads its own part; default: all on the default device.

        Returns:
          its configuration, with `param_dtype` set to what the leaves are in, and its leaves.

        Raises:
          FileNotFoundError, ValueError: one line saying what is missing or wrong.
        """
        self._need(name)
        leaves = self._found.load(name, dtype, shard(self.shapes(name)) if shard else {})
        narrow = all(leaf.dtype == jnp.bfloat16 for leaf in leaves.values())
        config = dataclasses.replace(
            self.config(name), param_dtype="bfloat16" if narrow else "float32"
        )
        return config, leaves

    def pieces(self, name: Name, path: str) -> Iterator[np.ndarray]:
        """Reads one leaf to the host, as consecutive rows of it, a layer or a few at a time.

        Raises:
          FileNotFoundError, ValueError: one line saying what is missing or wrong.
        """
        self._need(name)
        return self._found.pieces(name, path)

    def tokenizer(self) -> Path:
        """Folder of the tokenizer.

        Raises:
          FileNotFoundError: there is none.
        """
        if self._found.tokenizer is None:
            raise FileNotFoundError(self._without_tokenizer())
        return self._found.tokenizer

    def _without_tokenizer(self) -> str:
        """What to do where there is no tokenizer, in a line."""
        places = " or ".join(FOREIGN[self.family.name].tokenizer.values())
        expected = f"expected {places} in it"
        if self.path.is_file():
            expected = f"put it into a folder that holds {places} as well, and give the folder"
        source = None
        if isinstance(self._found, Published) and "text_encoder" in self.names:
            source = self._found.networks["text_encoder"]
        if source is None or EMBEDDED_TOKENIZER not in source.source.tensors:
            return f"{self.path} has no tokenizer; {expected}."
        return (
            f"{self.path} has no tokenizer but the one packed into {source.file.name} as "
            f"{EMBEDDED_TOKENIZER}, which is not read; {expected}, as published with the model."
        )

    def _need(self, name: Name) -> None:
        if name not in self.names:
            why = f" Not readable: {listed(self.unreadable, 3, ' ')}" if self.unreadable else ""
            network = FOREIGN[self.family.name].networks[name]
            places = " or ".join(dict.fromkeys(network.files.values()))
            raise FileNotFoundError(
                f"{self.path} has no {name}; it has {', '.join(self.names)}. Expected {places} in "
                f"the folder.{why}"
            )
