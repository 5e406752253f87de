"""Jumps between frames."""

import numpy as np
import pytest

from pusa_jax.report.seams import closing_jump, greatest, jump

CHANGES = np.array([2.0, 2, 2, 4, 2, 12, 2, 2, 2, 8])


def test_a_jump_is_a_change_over_those_around_it():
    assert jump(CHANGES, 5) == 6.0
    assert jump(CHANGES, 3) == 2.0
    assert jump(CHANGES, 9) == 4.0
    assert jump(CHANGES, 0) == 1.0


def test_only_four_changes_on_either_side_count():
    assert jump(np.array([9.0] * 5 + [1] * 4 + [5] + [1] * 4 + [9] * 5), 9) == 5.0


def test_the_greatest_is_told_with_the_frame_that_it_leads_to():
    assert greatest(CHANGES) == (6.0, 6)
    assert greatest(np.zeros(0)) is None


def test_in_a_still_clip_roundings_are_no_jumps():
    assert jump(np.array([0.0, 0, 0.1, 0, 0]), 2) == pytest.approx(0.2)
    assert greatest(np.array([3.0])) == (6.0, 1)


def test_the_end_of_a_loop_is_held_against_both_ends():
    changes = np.array([1.0, 1, 1, 1] + [50] * 9 + [3, 3, 3, 3])
    assert closing_jump(changes, 4.0) == 2.0
