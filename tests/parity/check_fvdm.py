"""FVDM's diffusion process: its tables."""

import numpy as np
from golden import Comparison, Golden

from pusa_jax.diffusion.linear_betas import linear_betas, respaced

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


CHECKS = {"fvdm_tables": check_tables}
