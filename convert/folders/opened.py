"""A model folder, published or converted, opened once and handed down."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.typing import DTypeLike

from pusa_jax.convert.folders import converted
from pusa_jax.models.families import family_of
from pusa_jax.models.family import Family, Name

Shard = Callable[[Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, jax.sharding.Sharding]]
"""Path -> shape of all leaves, to path -> sharding."""


class ModelFolder:
    """What a folder holds; networks are read when they are asked for."""

    def __init__(self, path: str | Path):
        """Reads tables of contents only.

        Raises:
          FileNotFoundError, ValueError: one line saying what is missing or wrong.
        """
        self.path = Path(path)
        self.names: tuple[Name, ...] = tuple(converted.component_names(self.path))

    @property
    def family(self) -> Family:
        """Family of the denoiser."""
        return family_of(self.config("dit"))

    def config(self, name: Name) -> Any:
        """Configuration of one network.

        Raises:
          FileNotFoundError, ValueError: it is not there, or not understood.
        """
        return converted.read_config(self.path, name)

    def check(self, names: Iterable[Name] | None = None, dtype: DTypeLike | None = None) -> None:
        """Makes sure that networks can be loaded, reading none of their values.

        Args:
          names: the networks; default is all.
          dtype: what they are to be loaded in; default is what is stored.

        Raises:
          FileNotFoundError, ValueError: one line that names everything that is missing or wrong.
        """
        converted.check_components(self.path, self.names if names is None else names, dtype)

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
        return converted.load_component(self.path, name, dtype, shard=shard)

    def tokenizer(self) -> Path:
        """Folder of the tokenizer.

        Raises:
          FileNotFoundError: there is none.
        """
        return converted.tokenizer_folder(self.path)
