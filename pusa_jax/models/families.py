"""All families and presets: the only module that names them.

A new family is one line in `FAMILIES` and one in `PRESETS`.
"""

from collections.abc import Mapping

from pusa_jax.models.family import Family, Preset
from pusa_jax.models.latte import family as latte
from pusa_jax.models.mochi import family as mochi
from pusa_jax.models.wan import family as wan

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (wan.WAN21, wan.WAN22, wan.WAN22_TI2V, mochi.MOCHI, latte.LATTE)
}
"""Name -> family."""

PRESETS: Mapping[str, Preset] = {**wan.PRESETS, **mochi.PRESETS, **latte.PRESETS}
"""Published name -> sizes of the networks."""


def preset(name: str) -> Preset:
    """Returns the preset of a published model.

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]


def family_named(name: str) -> Family:
    """Returns a family.

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown model family {name!r}; known: {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[name]
