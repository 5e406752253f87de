"""Plain values that come back from a file: whether they still are what they are said to be."""

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_record(cls: type, record: Any) -> None:
    """Makes sure that a JSON table has the fields of a dataclass, of their types, and no others.

    Raises:
      ValueError: one line that names the first field that is wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a table of settings, got {record!r:.60}.")
    hints = get_type_hints(cls)
    needed = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    if unknown := sorted(record.keys() - hints.keys()):
        raise ValueError(f"the file has settings of another version: {unknown[0]!r} is unknown.")
    if missing := sorted(needed - record.keys()):
        raise ValueError(f"the file has settings of another version: {missing[0]!r} is missing.")
    for name, value in record.items():
        if not fits(value, hints[name]):
            raise ValueError(f"the settings in the file are damaged: {name} is {value!r:.60}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type; lists count as tuples, and whole numbers as floats.

    Args:
      value: as `json.loads` gives it.
      hint: a plain type, or a Literal, union, tuple or dict of such.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is None:
        return type(value) is hint or (hint is float and type(value) is int)
    if origin is Literal:
        return value in inner
    if origin is types.UnionType:
        return any(fits(value, kind) for kind in inner)
    if origin is dict:
        is_table = isinstance(value, dict)
        return is_table and all(fits(pair, tuple[inner]) for pair in value.items())
    if not isinstance(value, list | tuple):
        return False
    kinds = inner[:1] * len(value) if inner[-1] is ... else inner
    return len(value) == len(kinds) and all(map(fits, value, kinds))


HOW_IT_RUNS = frozenset({"weights", "remat", "accumulate"})
"""Fields of other parts that say nothing about what checkpoints hold, nor what is computed."""


def differing_fields(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], parts: frozenset[str]
) -> list[str]:
    """Fields of two runs' settings that differ, with both values, in some of their parts."""
    return [
        f"{name} is {old!r} there and {new!r} here"
        for part in sorted(parts)
        for name, old, new in _compare(part, saved.get(part), wanted.get(part))
    ]


def _compare(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if key not in HOW_IT_RUNS:
                yield from _compare(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield name, old, new
