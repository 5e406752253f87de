"""Plain values from a file, held against the dataclass they are said to be."""

import dataclasses
from typing import Any, Literal

import pytest

from pusa_jax.files.records import FieldError, convert, rebuild


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (1.5, float),
        (1, float),
        (True, bool),
        ("a", str),
        ("crop", Literal["crop", "stretch"]),
        (None, int | None),
        (3, int | None),
        ([], tuple[int, ...]),
        ([1, 2], tuple[int, ...]),
        ((1, 2), tuple[int, ...]),
        (["a", 1.0], tuple[str, float]),
        ([["a", 1.0], ["b", 2]], tuple[tuple[str, float], ...]),
        ({}, dict[str, int]),
        ({"data": 2, "context": 1}, dict[str, int]),
    ],
)
def test_values_of_a_type_fit_it(value, hint):
    convert(value, hint, "x")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1.0, int),
        (True, int),
        (True, float),
        ("1", int),
        (None, str),
        (1, bool),
        ("fill", Literal["crop", "stretch"]),
        ("3", int | None),
        (1, tuple[int, ...]),
        ("ab", tuple[str, ...]),
        ({"a": 1}, tuple[str, ...]),
        ([1, "2"], tuple[int, ...]),
        (["a"], tuple[str, float]),
        (["a", 1.0, 2.0], tuple[str, float]),
        ([1.0, "a"], tuple[str, float]),
        ({"data": 1, "context": "1"}, dict[str, int]),
        ([["data", 1]], dict[str, int]),
    ],
)
def test_values_of_another_type_do_not(value, hint):
    with pytest.raises(FieldError, match=r"^x"):
        convert(value, hint, "x")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A record of two fields that are needed and one that is not."""

    width: int
    height: int
    colour: str | None = None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "expected a table of settings, got None"),
        (["width"], r"expected a table of settings, got \['width'\]"),
        ({"width": 1}, "another version: 'height' is missing"),
        ({}, "another version: 'width' is missing"),
        ({"width": 1, "height": 2, "b": 1, "a": 2}, "another version: 'b' is unknown"),
        ({"width": 1, "height": 2.5}, "are damaged: height is 2.5"),
        ({"width": 1, "height": 2, "colour": 3}, "are damaged: colour is 3"),
    ],
)
def test_the_first_field_that_is_wrong_is_named(record: Any, message):
    with pytest.raises(ValueError, match=message):
        rebuild(Size, record)


def test_fields_with_defaults_may_be_absent():
    rebuild(Size, {"width": 1, "height": 2})
    rebuild(Size, {"width": 1, "height": 2, "colour": "red"})
