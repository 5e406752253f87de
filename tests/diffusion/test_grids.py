"""Tables of the schedulers used elsewhere: what the network is told, and what solvers step by."""

import numpy as np
import pytest

from pusa_jax.diffusion.grids import dpmpp_table, euler_table, unipc_table

TABLES = [unipc_table, dpmpp_table, euler_table]


@pytest.mark.parametrize("table", TABLES)
def test_steps_join_the_levels_and_the_last_ends_in_zero(table):
    sigmas, timesteps, step_sizes, levels, entry, coefficients = table(7, 5.0)
    assert entry is None and coefficients is None
    assert sigmas.shape == (8, 1) and timesteps.shape == step_sizes.shape == (7, 1)
    assert sigmas[-1, 0] == 0 and (np.diff(sigmas[:, 0]) < 0).all()
    assert np.array_equal(step_sizes, sigmas[1:] - sigmas[:-1])
    assert np.array_equal(levels, sigmas[:-1, 0])
    assert {x.dtype for x in (sigmas, timesteps, step_sizes, levels)} == {np.dtype(np.float32)}


def test_fractions_are_dropped_of_products_in_float64():
    """As Wan's schedulers do: in float32 both products round up to the next whole number."""
    assert dpmpp_table(30, 5.0).timesteps[25, 0] == 499
    assert unipc_table(98, 3.0).timesteps[51, 0] == 733


def test_euler_is_told_fractions():
    table = euler_table(4, 5.0)
    np.testing.assert_array_equal(table.timesteps, table.sigmas[:-1] * np.float32(1000))
    # Parity: diffusers shifts 1 and 0.001, spreads levels between them and shifts all again.
    ends = np.linspace(1.0, 0.005 / 1.004, 4)
    np.testing.assert_allclose(table.sigmas[:-1, 0], 5 * ends / (1 + 4 * ends), rtol=1e-6)


@pytest.mark.parametrize("table", TABLES)
def test_one_step_begins_at_the_first_level(table):
    first = 1.0 if table is not unipc_table else 5 * 0.999 / (1 + 4 * 0.999)
    np.testing.assert_allclose(table(1, 5.0).sigmas[:, 0], [first, 0], rtol=1e-6)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bad", [(0, 5.0), (4, 0.0), (4, -1.0), (4, np.nan)])
def test_grids_out_of_range_are_refused(table, bad):
    with pytest.raises(ValueError, match="got"):
        table(*bad)
