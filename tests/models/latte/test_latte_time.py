"""What LatteVIDEO is told of a timestep, with the rounding of the original."""

import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.models.latte.dit import time_features


@pytest.mark.parametrize("timestep", [0, 1, 10])
def test_cosines_come_first_and_frequencies_fall_to_one_in_10000(timestep):
    features = time_features(jnp.float32(timestep), 16)
    frequencies = np.float32(10_000.0 ** (-np.arange(8) / 8))
    angles = np.float64(np.float32(timestep) * frequencies)
    np.testing.assert_allclose(features[:8], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(features[8:], np.sin(angles), atol=1e-6)


def test_angles_are_off_as_those_of_the_original():
    """torch.exp(-math.log(10000) * torch.arange(128) / 128)[[2, 4]] * 999 in float32."""
    features = np.asarray(time_features(jnp.float32(999), 256), np.float64)
    exact = 999 * 10_000.0 ** (-np.arange(128) / 128)
    assert 1e-5 < np.abs(features[:128] - np.cos(exact)).max() < 5e-5
    for j, angle in ((2, 865.0983276367188), (4, 749.144287109375)):
        np.testing.assert_allclose(features[j], np.cos(angle), atol=1e-6)
