"""Plain values to records: what is converted, and what is said of a value that does not go."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from pusa_jax.files.records import FieldError, build, convert, differing_fields, rebuild


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    size: float = 1.0
    kind: Literal["round", "square"] = "round"

    def __post_init__(self):
        if self.size <= 0:
            raise ValueError(f"size must be positive, got {self.size}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cart:
    owner: str
    wheels: tuple[Wheel, ...] = ()
    front: Wheel = Wheel()
    spare: Wheel | None = None
    names: tuple[tuple[str, float], ...] = ()
    length: int | str = 1
    marks: dict[str, int] | None = None
    rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CART = Cart(
    owner="a",
    wheels=(Wheel(size=2.0), Wheel(kind="square")),
    spare=Wheel(size=3.0),
    names=(("b", 0.5),),
    length="long",
    marks={"x": 1},
    rest={"free": [1, None]},
)


@pytest.mark.parametrize("make", [build, rebuild])
def test_a_record_comes_back_from_json(make):
    assert make(Cart, json.loads(json.dumps(dataclasses.asdict(CART)))) == CART
    assert make(Cart, {"owner": "a"}) == Cart(owner="a")


def test_whole_numbers_become_floats_and_truth_values_do_not():
    wheel = build(Wheel, {"size": 3})
    assert wheel.size == 3 and type(wheel.size) is float
    with pytest.raises(FieldError, match=r"config\.size must be float, got True"):
        build(Wheel, {"size": True})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "x.owner is missing."),
        ({"owner": 1}, "x.owner must be str, got 1."),
        ({"owner": "a", "whels": []}, "there is no x.whels; nearest are x.wheels, x.re"),
        ({"owner": "a", "front": 4}, "x.front must hold fields, got 4."),
        ({"owner": "a", "front": {"sise": 1}}, "there is no x.front.sise; nearest are x.front.si"),
        ({"owner": "a", "front": {"kind": "oval"}}, "x.front.kind must be one of round, square; "),
        ({"owner": "a", "spare": {"size": 0}}, "x.spare: size must be positive, got 0.0."),
        ({"owner": "a", "wheels": 3}, "x.wheels must be a sequence, got 3."),
        ({"owner": "a", "names": [["b"]]}, "x.names must have 2 entries, got ['b']."),
        ({"owner": "a", "length": 0.5}, "x.length must be str, got 0.5."),
        ({"owner": "a", "marks": [1]}, "x.marks must be a table, got [1]."),
        ({"owner": "a", "marks": {"x": "y"}}, "x.marks must be int, got 'y'."),
        ([], "x must hold fields, got []."),
    ],
)
def test_what_a_person_wrote_wrong_is_named(values, message):
    with pytest.raises(FieldError) as error:
        build(Cart, values, "x")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected a table of settings, got []."),
        ({}, "the file has settings of another version: 'owner' is missing."),
        ({"owner": "a", "wings": 2}, "the file has settings of another version: 'wings' is unkn"),
        ({"owner": "a", "front": {"size": "2"}}, "the settings in the file are damaged: size is "),
        ({"owner": "a", "front": None}, "the settings in the file are damaged: front is None."),
        ({"owner": "a", "spare": {"size": -1}}, "size must be positive, got -1.0."),
    ],
)
def test_a_file_that_holds_something_else_is_told_apart_from_a_mistake(values, message):
    with pytest.raises(ValueError) as error:
        rebuild(Cart, values)
    assert str(error.value).startswith(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    holds: str = "wheel"
    content: Any = None

    @staticmethod
    def field_kinds(values):
        return {"content": {"wheel": Wheel, "cart": Cart}[values.get("holds", "wheel")] | None}


def test_a_field_may_decide_what_another_holds():
    assert build(Box, {"content": {"size": 2.0}}).content == Wheel(size=2.0)
    assert build(Box, {"holds": "cart", "content": {"owner": "a"}}).content == Cart(owner="a")
    assert build(Box, {"content": Wheel()}).content == Wheel() and build(Box, {}).content is None
    with pytest.raises(FieldError, match=r"there is no config\.content\.owner; nearest"):
        build(Box, {"content": {"owner": "a"}})


def test_one_value_can_be_converted_alone():
    assert convert({"a": [1, 2]}, dict[str, tuple[float, ...]], "x") == {"a": (1.0, 2.0)}
    with pytest.raises(FieldError, match="x must be str, got 1"):
        convert({1: "a"}, dict[str, str], "x")


def test_differences_are_named_but_for_those_that_are_free():
    saved, wanted = ({"a": {"b": {"c": x, "d": x}}, "e": x} for x in (1, 2))
    assert differing_fields(saved, wanted, frozenset({"a"})) == [
        "a.b.c is 1 there and 2 here",
        "a.b.d is 1 there and 2 here",
    ]
    free = differing_fields(saved, wanted, frozenset({"a", "e"}), frozenset({"c"}))
    assert free == ["a.b.d is 1 there and 2 here", "e is 1 there and 2 here"]
