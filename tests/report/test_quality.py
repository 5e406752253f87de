"""PSNR, SSIM and colours, against the formulae of the papers as scikit-image has them."""

import numpy as np
import pytest

from pusa_jax.report import quality

metrics = pytest.importorskip("skimage.metrics")
color = pytest.importorskip("skimage.color")

RANDOM = np.random.default_rng(0)
FRAME = RANDOM.integers(0, 256, (40, 53, 3), np.uint8)
NOISY = np.clip(FRAME + RANDOM.normal(0, 20, FRAME.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 53), (11, 11), (12, 64), (140, 30), (75, 20)])
def test_ssim_is_that_of_the_paper(shape):
    one = quality.luma(FRAME)[: shape[0], : shape[1]]
    one = np.resize(one, shape)
    other = np.clip(0.8 * one + RANDOM.normal(0, 15, shape), 0, 255)
    theirs = metrics.structural_similarity(
        one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert quality.ssim(one, other) == pytest.approx(theirs, rel=1e-12)
    assert 0.01 < theirs < 0.99


def test_a_frame_is_like_itself():
    bright = quality.luma(FRAME)
    assert quality.ssim(bright, bright) == pytest.approx(1.0)
    assert quality.psnr(quality.squared_error(FRAME, FRAME)) == float("inf")


def test_where_no_window_fits_there_is_no_ssim():
    assert np.isnan(quality.ssim(np.zeros((10, 40)), np.zeros((10, 40))))
    assert np.isnan(quality.ssim(np.zeros((40, 10)), np.zeros((40, 10))))


def test_psnr_is_of_all_colours():
    theirs = metrics.peak_signal_noise_ratio(FRAME, NOISY)
    assert quality.psnr(quality.squared_error(FRAME, NOISY)) == pytest.approx(theirs, rel=1e-6)


def test_luma_has_the_weights_of_bt709():
    assert quality.luma(np.eye(3)[None] * 255)[0] / 255 == pytest.approx([0.2126, 0.7152, 0.0722])


def test_colours_are_those_of_cie():
    colours = RANDOM.uniform(0, 255, (50, 3))
    colours[0], colours[1] = (0, 0, 0), (3, 2, 1)
    theirs = color.rgb2lab(colours[None] / 255)[0]
    np.testing.assert_allclose(quality.lab(colours), theirs, atol=1e-9)


def test_drift_is_the_distance_from_the_first_colour():
    colours = np.array([[120.0, 60, 30], [120, 60, 30], [0, 200, 90]])
    theirs = color.deltaE_cie76(*color.rgb2lab(colours[None, [0, 2]] / 255)[0])
    assert quality.drift(colours) == pytest.approx([0, 0, theirs])
