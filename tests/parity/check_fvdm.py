"""FVDM's diffusion process: its tables, and single calls with a timestep for each frame."""

import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.diffusion.ancestral import (
    ancestral_rows,
    ancestral_step,
    learned_log_variance,
    posterior_mean,
)
from pusa_jax.diffusion.ddim import ddim_rows, ddim_step, guess_clean
from pusa_jax.diffusion.linear_betas import linear_betas, respaced
from pusa_jax.diffusion.process import VARIANCE_PRESERVING
from pusa_jax.diffusion.solvers import EulerState
from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, LevelTable, level_table
from pusa_jax.testing.compare import relative_error

LIMIT = 1e-5
TABLES = {
    "betas": "betas",
    "alphas_cumprod": "alphas_cumprod",
    "alphas_cumprod_prev": "alphas_cumprod_prev",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance",
    "posterior_mean_coef1": "posterior_mean_of_clean",
    "posterior_mean_coef2": "posterior_mean_of_noised",
}
"""The original's name -> ours."""


def check_tables(golden: Golden, case: dict):
    name, spacing = case["name"], case["timestep_respacing"]
    process = respaced(spacing) if spacing else linear_betas()
    wrong = np.count_nonzero(process.timesteps != golden.tensor(f"out.{name}.timestep_map"))
    yield Comparison("timesteps that differ", float(wrong), 0, "count")
    for theirs, ours in TABLES.items():
        recorded = golden.tensor(f"out.{name}.{theirs}")
        gap = np.abs(getattr(process, ours) - recorded)
        error = float(np.max(gap / np.maximum(np.abs(recorded), 1e-30)))
        yield Comparison(theirs, error, 1e-12)


def latents_of(golden: Golden, name: str):
    """Recorded [B, F, C, H, W] in the layout of the house."""
    return jnp.moveaxis(jnp.asarray(golden.tensor(f"in.a.{name}")), 2, -1)


def levels_of(golden: Golden, name: str) -> LevelTable:
    """The levels that training draws where these timesteps are recorded."""
    table = level_table(LevelConfig(schedule="linear_betas"))
    return table.at(LEVELS - 1 - jnp.asarray(golden.tensor(f"in.a.{name}")))


def noised(golden: Golden, name: str = "t1000"):
    clean, noise = latents_of(golden, "x_start"), latents_of(golden, "noise")
    return {"x_t": VARIANCE_PRESERVING.noised(clean, noise, levels_of(golden, name))}


def bound(golden: Golden, name: str, predicted: str):
    """Of clips: the mean over their frames."""
    prediction = jnp.concatenate([latents_of(golden, predicted), latents_of(golden, "var")], -1)
    inputs = latents_of(golden, "x_start"), noised(golden, name)["x_t"], levels_of(golden, name)
    assert VARIANCE_PRESERVING.further_loss is not None
    return {"vb": VARIANCE_PRESERVING.further_loss(prediction, *inputs).mean(axis=1)}


def posterior(golden: Golden):
    """Means and variances; as recorded, the variances are the table's, one for a frame."""
    process, indices = linear_betas(), golden.tensor("in.a.t1000")
    row = ancestral_rows(process, indices, np.ones_like(indices, bool))
    clean, latents = latents_of(golden, "x_start"), latents_of(golden, "x_t")
    everywhere = jnp.ones_like(latents)
    variance = process.posterior_variance[indices].astype(np.float32)
    return {
        "mean": posterior_mean(clean, latents, row),
        "variance": everywhere * variance[..., None, None, None],
        "log_variance": learned_log_variance(-everywhere, row),
    }


def mean_and_variance(golden: Golden, spacing: str, which: str):
    indices = golden.tensor(f"in.a.{which}")
    row = ancestral_rows(respaced(spacing), indices, np.ones_like(indices, bool))
    latents = latents_of(golden, "x_t")
    guess = guess_clean(latents, latents_of(golden, "eps"), row.guess)
    log_variance = learned_log_variance(latents_of(golden, "var"), row)
    return {
        "pred_xstart": guess,
        "mean": posterior_mean(guess, latents, row),
        "variance": jnp.exp(log_variance),
        "log_variance": log_variance,
    }


def ddim(golden: Golden, *, limit: float = np.inf, **options):
    indices = golden.tensor("in.a.tr")
    process = respaced(str(golden.meta["respacing"]))
    row = ddim_rows(process, indices, np.ones_like(indices, bool), **options)
    row = row._replace(noise=latents_of(golden, "noise"))
    state = EulerState(latents=latents_of(golden, "x_t"))
    return {"sample": ddim_step(state, latents_of(golden, "eps"), row, limit).latents}


def ancestral(golden: Golden):
    indices = golden.tensor("in.a.tr")
    process = respaced(str(golden.meta["respacing"]))
    row = ancestral_rows(process, indices, np.ones_like(indices, bool))
    row = row._replace(noise=latents_of(golden, "noise"))
    prediction = jnp.concatenate([latents_of(golden, "eps"), latents_of(golden, "var")], -1)
    state = EulerState(latents=latents_of(golden, "x_t"))
    return {"sample": ancestral_step(state, prediction, row).latents}


CALLS = {
    "q_sample": noised,
    "posterior": posterior,
    "pmv": lambda golden: mean_and_variance(golden, "1000", "t1000"),
    "pmv_respaced": lambda golden: mean_and_variance(golden, str(golden.meta["respacing"]), "tr"),
    "ddim_eta0": ddim,
    "ddim_eta1": lambda golden: ddim(golden, eta=1.0),
    "ddim_clip": lambda golden: ddim(golden, limit=1.0),
    "ddim_reverse": lambda golden: ddim(golden, to_more_noise=True),
    "ddpm": ancestral,
    "vb": lambda golden: bound(golden, "t1000", "eps"),
    "vb_zero_row": lambda golden: bound(golden, "t_zero_row", "eps_near"),
}


def check_misc(golden: Golden, case: dict):
    for what, ours in CALLS[case["name"]](golden).items():
        ours = jnp.moveaxis(ours, -1, 2) if ours.ndim == 5 else ours
        recorded = golden.tensor(f"out.{case['name']}.{what}")
        yield Comparison(what, relative_error(ours, recorded), LIMIT)


CHECKS = {"fvdm_tables": check_tables, "fvdm_misc": check_misc}
