"""The Fréchet distance, held to the matrix root of SciPy and to what it must be in closed form."""

import numpy as np
import pytest
from scipy import linalg

from pusa_jax.evaluation.frechet import Statistics, distance, merged, statistics


def features(count, width, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, width)) @ rng.standard_normal((width, width))
    return (scale * mixed + rng.standard_normal(width)).astype(np.float32)


def with_a_matrix_root(real, generated):
    """As StyleGAN-V computes it, from features."""
    x, y = real.astype(np.float64), generated.astype(np.float64)
    of_x, of_y = (np.atleast_2d(np.cov(z, rowvar=False, bias=True)) for z in (x, y))
    root = np.real(linalg.sqrtm(of_y @ of_x))
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(of_x + of_y - 2 * root)


@pytest.mark.parametrize("width", [1, 7, 60])
def test_the_distance_is_that_of_a_matrix_root(width):
    real, generated = features(200, width), features(150, width, seed=1, scale=2.0)
    expected = with_a_matrix_root(real, generated)
    found = distance(statistics(real), statistics(generated))
    assert found == pytest.approx(expected, rel=1e-8)


def test_covariances_are_divided_by_the_number_of_clips():
    x = features(9, 4)
    found = statistics(x)
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T.astype(np.float64), bias=True))


def test_a_set_has_no_distance_to_itself_however_few_its_clips_are():
    for count in (2, 10, 300):
        found = statistics(features(count, 60))
        assert abs(distance(found, found)) < 1e-9 * np.trace(found.covariance)


def test_with_few_clips_the_distance_is_that_of_the_directions_they_span():
    rng = np.random.default_rng(0)
    wide = np.linalg.qr(rng.standard_normal((50, 50)))[0][:3]  # three directions of fifty
    real, generated = (rng.standard_normal((n, 3)).astype(np.float32) for n in (40, 30))
    expected = with_a_matrix_root(real, generated)
    lifted = [statistics((x @ wide).astype(np.float32)) for x in (real, generated)]
    assert distance(*lifted) == pytest.approx(expected, rel=1e-5)


def test_gaussians_along_the_axes_have_the_known_distance():
    def known(mean, variances):
        products = np.diag(np.array(variances)) + np.outer(mean, mean)
        return Statistics(count=1, total=np.array(mean, np.float64), products=products)

    found = distance(known([0, 1], [4.0, 9.0]), known([3, 1], [1.0, 0.0]))
    assert found == pytest.approx(9 + (2 - 1) ** 2 + 3**2, rel=1e-12)


def test_parts_of_a_set_add_up_to_the_whole():
    x = features(100, 12)
    parts = [statistics(x[a:b]) for a, b in ((0, 10), (10, 11), (11, 100))]
    whole, again = statistics(x), merged(parts)
    assert again.count == 100
    np.testing.assert_allclose(again.total, whole.total, rtol=1e-12)
    np.testing.assert_allclose(again.products, whole.products, rtol=1e-12)
    unchanged = statistics(x[:10])
    np.testing.assert_array_equal(parts[0].total, unchanged.total)
    np.testing.assert_array_equal(parts[0].products, unchanged.products)


def test_sums_do_not_lose_what_a_float32_cannot_hold():
    x = np.full((20_000, 1), 1000.0, np.float32)
    x[::2] += 0.25
    assert statistics(x).covariance[0, 0] == pytest.approx(0.125**2, rel=1e-6)


def test_other_features_and_none_are_refused():
    with pytest.raises(ValueError, match="have 3 features, generated ones 4"):
        distance(statistics(features(9, 3)), statistics(features(9, 4)))
    with pytest.raises(ValueError, match="there are no features"):
        statistics(np.zeros((0, 4), np.float32))
    odd = features(9, 3)
    odd[4, 1] = np.inf
    with pytest.raises(ValueError, match="of 1 of 9 clips are not finite"):
        statistics(odd)
