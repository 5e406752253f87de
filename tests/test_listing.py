"""Messages name some things and say how many there are."""

import pytest

from pusa_jax.listing import LIMIT, LONGEST, TOGETHER, listed


@pytest.mark.parametrize(
    ("count", "end"),
    [(1, "0"), (LIMIT, "39"), (LIMIT + 1, "39, and 1 more"), (999, "and 959 more")],
)
def test_at_most_forty_names_and_the_count_of_the_others(count, end):
    text = listed(range(count))
    assert text.endswith(end) and text.count(", ") <= LIMIT


def test_no_names_are_none():
    assert listed([]) == "none"


def test_a_long_name_is_cut():
    assert listed(["x" * 10**6], between="; ") == "x" * (LONGEST - 3) + "..."


def test_many_long_names_leave_room_for_what_comes_behind():
    text = listed(["x" * LONGEST] * LIMIT)
    assert TOGETHER / 2 < len(text) < TOGETHER + 20 and text.endswith(", and 31 more")
