"""Settings side by side."""

import pytest

from pusa_jax.report.fields import LONGEST, differing, in_words, settings_of


def record(**changes):
    job = {
        "task": "i2v",
        "prompt": "p",
        "at": None,
        "multipliers": None,
        "folder": "/somewhere",
        "settings": {"seed": 1, "num_steps": 30},
        "sha256": {"/a/x.png": "0" * 64},
    }
    return {"job": job | changes, "jax": "1", "mesh": {"data": 1}, "seconds": {"text": 1.0}}


def found(*records):
    return differing([settings_of(one) for one in records])


def test_only_what_differs_is_told():
    other = record(settings={"seed": 2, "num_steps": 30}, folder="/elsewhere")
    assert found(record(), other | {"seconds": {}}) == {"seed": ["1", "2"]}
    assert found(record(), record()) == {}


def test_what_one_does_not_say_is_a_dash():
    assert found(record(), {})["prompt"] == ["p", "–"]
    assert found(record(), {"job": 3, "layout": []})["seed"] == ["1", "–"]


def test_places_and_multipliers_are_those_used():
    layout = {"at": [0, 8], "multipliers": [0.2, 0.5], "stride": 4}
    used = found(record() | {"layout": layout}, record(at=[0, 8]) | {"layout": layout})
    assert used == {}
    assert settings_of(record() | {"layout": layout})["multipliers"] == "0.2, 0.5"


def test_files_of_one_name_are_told_apart_by_what_is_in_them():
    prints = {"/b/x.png": "1" * 64}
    assert found(record(), record(sha256=prints)) == {
        "fingerprint of x.png": ["000000000000", "111111111111"]
    }
    assert found(record(), record(sha256={})) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "default"), (True, "yes"), (False, "no"), (0.30000000000000004, "0.3"), (7, "7"),
        ([], "none"), (["a", 1.4], "a, 1.4"), ([["a", 1.4]], '[["a", 1.4]]'),
        ({"data": 2}, '{"data": 2}'), ("x" * 900, "x" * LONGEST + "…"),
    ],
)  # fmt: skip
def test_values_are_written_as_people_do(value, words):
    assert in_words(value) == words
