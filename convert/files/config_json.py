"""Values taken from a published config.json, which may say anything."""

from collections.abc import Mapping
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


def check_agreement(settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Makes sure that settings do not contradict what the tensors' shapes say.

    Args:
      settings: content of config.json.
      found: entry of config.json -> value by the tensors; entries that are missing are no matter.

    Raises:
      ValueError: an entry says something else.
    """
    for key, value in found.items():
        said = settings.get(key, value)
        if (list(said) if isinstance(said, tuple) else said) != value:
            raise ValueError(
                f"config.json has {key}={said!r:.40}, the tensors have {value}: they do "
                "not belong together."
            )


def positive(settings: Mapping[str, Any], key: str, default: Number) -> Number:
    """An entry that must be a number above 0; whole, if the default is.

    Raises:
      ValueError: it is something else.
    """
    value = settings.get(key, default)
    kinds = (int,) if isinstance(default, int) else (int, float)
    if type(value) not in kinds or not 0 < value < float("inf"):
        kind = "whole number" if isinstance(default, int) else "number"
        raise ValueError(f"config.json has {key}={value!r:.40}, which must be a {kind} above 0.")
    return value
