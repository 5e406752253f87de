"""Frames to the range of the networks and back (§3.4 of pusa-v1.md)."""

import numpy as np
import pytest

from pusa_jax.media.pixels import to_pixels, to_uint8


def test_black_and_white_are_the_ends_of_the_range():
    pixels = to_pixels(np.asarray([0, 51, 204, 255], np.uint8))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, [-1, -0.6, 0.6, 1], atol=1e-7)


def test_fractions_are_cut_off_and_values_outside_clipped():
    pixels = np.asarray([-1.5, -1, 0, 0.999, 1, 300], np.float32)
    assert to_uint8(pixels).tolist() == [0, 0, 127, 254, 255, 255]


def test_a_frame_comes_back_within_one_step():
    every = np.arange(256, dtype=np.uint8)
    assert np.abs(to_uint8(to_pixels(every)).astype(int) - every).max() <= 1


def test_bfloat16_pixels_are_widened_before_they_are_scaled():
    import jax.numpy as jnp

    values = jnp.linspace(-1, 1, 99).astype(jnp.bfloat16)
    assert np.array_equal(to_uint8(values), to_uint8(np.asarray(values.astype(jnp.float32))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_counted(bad):
    with pytest.raises(ValueError, match=r"^2 of 5 pixel values are not finite; nothing to show"):
        to_uint8(np.asarray([0, bad, 0, bad, 1], np.float32))
