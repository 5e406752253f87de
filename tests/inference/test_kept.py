"""A long-lived pipeline keeps what was used last, and no more."""

import pytest

from pusa_jax.inference.kept import Kept


def test_what_was_not_used_for_longest_goes():
    gone = []
    kept = Kept(2, gone.append)
    kept["a"], kept["b"] = 1, 2
    assert kept["a"] == 1
    kept["c"] = 3
    assert gone == [2] and dict(kept) == {"a": 1, "c": 3}
    kept["a"] = 4
    kept["d"] = 5
    assert gone == [2, 3] and list(kept) == ["a", "d"]


def test_asking_whether_something_is_there_is_no_use_of_it():
    kept = Kept(2)
    kept["a"], kept["b"] = 1, 2
    assert "a" in kept and "z" not in kept
    kept["c"] = 3
    assert list(kept) == ["b", "c"]


def test_all_goes_at_once():
    gone = []
    kept = Kept(3, gone.append)
    kept.update(a=1, b=2)
    kept.clear()
    assert not kept and sorted(gone) == [1, 2]
    with pytest.raises(KeyError):
        _ = kept["a"]


def test_nothing_at_all_cannot_be_kept():
    with pytest.raises(ValueError, match="at least one entry must be kept, got 0"):
        Kept(0)
