"""The foreign files of all families: the only module of `convert` that names them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pusa_jax.convert.foreign import ForeignFamily
from pusa_jax.convert.latte import foreign as latte
from pusa_jax.convert.mochi import foreign as mochi
from pusa_jax.convert.wan import foreign as wan
from pusa_jax.files.records import rebuild

FOREIGN: Mapping[str, ForeignFamily] = {
    "wan2.1": wan.WAN21,
    "wan2.2": wan.WAN22,
    "wan2.2-ti2v": wan.WAN22_TI2V,
    "mochi-1": mochi.MOCHI,
    "latte": latte.LATTE,
}
"""Name of a family, as in `models.families.FAMILIES` -> how its models are published."""

RUNTIME_FIELDS = ("param_dtype", "compute_dtype", "numerics", "remat")
"""Fields of configurations that say how a network runs, not what it is."""


def config_to_json(config: Any) -> dict[str, Any]:
    """What a network is, as plain values; how it runs is left out."""
    fields = dataclasses.asdict(config)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if name not in RUNTIME_FIELDS
    }


def config_from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """The inverse of `config_to_json`.

    Args:
      kind: class of the configuration.
      values: its fields.

    Raises:
      ValueError: a field is unknown, missing or of another type.
    """
    return rebuild(kind, values)
