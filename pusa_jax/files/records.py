"""Plain values to frozen records and back: the one way from JSON or a config file to a dataclass.

    build    values that a person wrote: a wrong field is named with the nearest known ones
    rebuild  values that this package wrote into a file: the file is damaged or of another version

Both fill nested dataclasses, literals, unions, tuples and tables by the types of the fields.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")
Fault = Literal["unknown", "missing", "wrong", "refused"]


class FieldError(ValueError):
    """A value that a record cannot take.

    Attributes:
      field: name of the field, without the records around it; "refused" is of a whole record.
      fault: what is wrong with it.
      value: what was given, or the words of the record that refuses its values.
    """

    def __init__(self, message: str, *, field: str, fault: Fault, value: Any = None):
        super().__init__(message)
        self.field, self.fault, self.value = field, fault, value


def build(cls: type[T], values: Any, where: str = "config") -> T:
    """Makes a frozen record, and the records in it, from nested mappings.

    Lists become tuples where a tuple is wanted, whole numbers become floats where a float is. A
    class whose fields depend on each other's values has a function `field_kinds` from the mapping
    to the types that replace those of its annotations.

    Args:
      cls: a dataclass.
      values: mapping from field to value.
      where: name of the record in messages.

    Raises:
      FieldError: an unknown field (with the nearest known ones), a missing one, a value of another
        type or outside its choices, or whatever the record itself refuses.
    """
    if not isinstance(values, Mapping):
        raise _wrong(where, f"must hold fields, got {values!r:.60}", values)
    kinds = typing.get_type_hints(cls)
    for name in values:
        if name not in kinds:
            message = unknown(f"{where}.{name}", [f"{where}.{known}" for known in kinds])
            raise FieldError(message, field=str(name), fault="unknown")
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        is_needed = field.default is field.default_factory is dataclasses.MISSING
        if is_needed and field.name not in values:
            message = f"{where}.{field.name} is missing."
            raise FieldError(message, field=field.name, fault="missing")
    field_kinds: Callable[[Any], Mapping[str, Any]] | None = getattr(cls, "field_kinds", None)
    if field_kinds is not None:
        kinds |= field_kinds(values)
    fields = {name: convert(x, kinds[name], f"{where}.{name}") for name, x in values.items()}
    try:
        return cls(**fields)
    except ValueError as error:
        name, words = where.rpartition(".")[2], str(error)
        raise FieldError(f"{where}: {words}", field=name, fault="refused", value=words) from None


def rebuild(cls: type[T], record: Any) -> T:
    """The record that was written to a file as `dataclasses.asdict` gives it; see `build`.

    Raises:
      ValueError: one line that names the first field that is wrong, or what the record refuses.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected a table of settings, got {record!r:.60}.")
    try:
        return build(cls, record)
    except FieldError as error:
        match error.fault:
            case "refused":
                message = str(error.value)
            case "wrong":
                given = f"{error.field} is {error.value!r:.60}"
                message = f"the settings in the file are damaged: {given}."
            case _:
                what = f"{error.field!r} is {error.fault}"
                message = f"the file has settings of another version: {what}."
        raise ValueError(message) from None


def convert(value: Any, kind: Any, where: str) -> Any:
    """A plain value as a field of a type holds it.

    Args:
      value: as JSON or a config file gives it.
      kind: a plain type, a dataclass, or a Literal, union, tuple or mapping of such.
      where: name of the field in messages.

    Raises:
      FieldError: the value is of another type or outside its choices.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        is_built = isinstance(kind, type) and isinstance(value, kind)
        return value if is_built else build(kind, value, where)  # pyright: ignore[reportArgumentType]
    if origin is Literal:
        if value not in inner:
            choices = ", ".join(map(str, inner))
            raise _wrong(where, f"must be one of {choices}; got {value!r:.60}", value)
        return value
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, inner, where)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise _wrong(where, f"must be a sequence, got {value!r:.60}", value)
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(value) != len(kinds):
            raise _wrong(where, f"must have {len(kinds)} entries, got {value!r:.60}", value)
        return tuple(convert(x, k, where) for x, k in zip(value, kinds, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, f"must be a table, got {value!r:.60}", value)
        names, values = inner
        return {convert(n, names, where): convert(x, values, where) for n, x in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, f"must be {kind.__name__}, got {value!r:.60}", value)
    return value


def _one_of(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """The value as the first of several types that takes it; the last one's refusal is told."""
    if value is None and types.NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not types.NoneType)
    for kind in others:
        try:
            return convert(value, kind, where)
        except FieldError:
            continue
    return convert(value, last, where)


def _wrong(where: str, message: str, value: Any) -> FieldError:
    field = where.rpartition(".")[2]
    return FieldError(f"{where} {message}.", field=field, fault="wrong", value=value)


def unknown(name: str, known: Iterable[str]) -> str:
    """Message for a field that does not exist, with the nearest that do."""
    known, (parent, _, last) = sorted(known), name.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    if beside:
        near = [beside[k] for k in difflib.get_close_matches(last, beside, n=3, cutoff=0.0)]
    else:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"there is no {name}; nearest are {', '.join(near)}."


def differing_fields(
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    parts: frozenset[str],
    free: frozenset[str] = frozenset(),
) -> list[str]:
    """Fields of two records that differ, with both values.

    Args:
      saved: plain values, "there" in the answers.
      wanted: plain values, "here" in the answers.
      parts: names on the outermost level that are compared.
      free: names below it that may differ.
    """
    return [
        f"{name} is {old!r} there and {new!r} here"
        for part in sorted(parts)
        for name, old, new in _compare(part, saved.get(part), wanted.get(part), free)
    ]


def _compare(name: str, old: Any, new: Any, free: frozenset[str]) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted((old.keys() | new.keys()) - free):
            yield from _compare(f"{name}.{key}", old.get(key), new.get(key), free)
    elif old != new:
        yield name, old, new
