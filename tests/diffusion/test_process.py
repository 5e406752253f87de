"""How the two processes noise latents, and what they learn."""

import jax
import jax.numpy as jnp
import numpy as np

from pusa_jax.diffusion.flow import interpolate
from pusa_jax.diffusion.process import FLOW, SOLVERS, VARIANCE_PRESERVING
from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, level_table
from pusa_jax.diffusion.variance_bound import variance_bound

CLEAN, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 3, 2, 2, 4))
TIMESTEPS = jnp.asarray([[0.0, 500, 999], [999, 3, 0]])
TABLE = level_table(LevelConfig(schedule="linear_betas"))
DRAWN = TABLE.at(LEVELS - 1 - TIMESTEPS.astype(int))


def test_flow_matching_is_the_straight_path():
    assert jnp.array_equal(
        FLOW.noised(CLEAN, NOISE, DRAWN), interpolate(CLEAN, NOISE, DRAWN.sigmas)
    )
    assert jnp.array_equal(FLOW.target(CLEAN, NOISE), NOISE - CLEAN)
    assert FLOW.solvers is SOLVERS


def test_the_variance_is_kept_frame_by_frame():
    """Of the product of 1 - beta up to the timestep, in float64."""
    share = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.asarray(TIMESTEPS, int)]
    share = share[..., None, None, None]
    noised = VARIANCE_PRESERVING.noised(CLEAN, NOISE, DRAWN)
    np.testing.assert_allclose(
        noised, np.sqrt(share) * CLEAN + np.sqrt(1 - share) * NOISE, atol=1e-6
    )
    assert jnp.array_equal(VARIANCE_PRESERVING.target(CLEAN, NOISE), NOISE)


def test_latents_are_noised_inside_a_program():
    inside = jax.jit(VARIANCE_PRESERVING.noised)(CLEAN, NOISE, DRAWN)
    np.testing.assert_allclose(inside, VARIANCE_PRESERVING.noised(CLEAN, NOISE, DRAWN), atol=1e-6)


def test_a_clean_frame_is_not_noised_though_it_is_told_what_the_least_noised_is():
    drawn = TABLE.at(jnp.asarray([[LEVELS, 3, LEVELS - 1], [0, 1, LEVELS]]))
    noised = VARIANCE_PRESERVING.noised(CLEAN, NOISE, drawn)
    is_clean = np.asarray(noised == CLEAN).all(axis=(2, 3, 4))
    assert is_clean.tolist() == [[True, False, False], [False, False, True]]
    assert (drawn.timesteps[:, 2] == 0).all()


def test_only_variances_are_learned_beside():
    assert FLOW.further_loss is None
    assert VARIANCE_PRESERVING.further_loss is variance_bound
