"""Whether networks belong together: what one gives, the others must take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pusa_jax.models.family import Family, Name


def check_belonging(path: Path, family: Family, configs: Mapping[Name, Any]) -> None:
    """Makes sure that the networks of a folder are those of one model, as far as they are there.

    Args:
      path: the folder, for the message.
      family: of the networks.
      configs: their configurations.

    Raises:
      ValueError: they are not; one line that says what differs.
    """
    experts: list[Name] = [name for name in family.experts if name in configs]
    if not experts:
        return
    first = configs[experts[0]]
    for other in experts[1:]:
        if configs[other] != first:
            raise ValueError(
                f"networks in {path} do not belong together: {experts[0]} is {first}, {other} is "
                f"{configs[other]}; put those of one published model there."
            )
    rows: tuple[tuple[str, int, str, Name, str], ...] = (
        ("latent channels", first.in_dim, "VAE", "vae", "z_dim"),
        ("text features", first.text_dim, "text encoder", "text_encoder", "dim"),
    )
    for what, taken, giver, name, given in rows:
        if name in configs and taken != getattr(configs[name], given):
            raise ValueError(
                f"networks in {path} do not belong together: its DiT takes {taken} {what}, its "
                f"{giver} gives {getattr(configs[name], given)}; put those of one published model "
                "there."
            )
