"""The diffusion processes: how latents are noised, what is learned, and which solvers lead back.

Flow matching walks a straight line, (1 - sigma) * clean + sigma * noise, and learns noise - clean.
Variance-preserving diffusion has sqrt(abar) * clean + sqrt(1 - abar) * noise and learns the noise.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pusa_jax.diffusion.adams import AB2
from pusa_jax.diffusion.ancestral import ANCESTRAL
from pusa_jax.diffusion.ddim import DDIM
from pusa_jax.diffusion.flow import interpolate, per_frame, velocity_target
from pusa_jax.diffusion.linear_betas import linear_betas
from pusa_jax.diffusion.solvers import EULER, Solver, dpmpp, unipc
from pusa_jax.diffusion.timesteps import LevelTable
from pusa_jax.diffusion.variance_bound import variance_bound
from pusa_jax.typing import Latents, Prediction


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Process:
    """One process; all that sampling and training know of it.

    Attributes:
      solver: the one that runs inside other programs, and that plans are made for.
      solvers: by their names in `SamplingConfig.solver`.
      noised: (clean latents, standard normal noise, levels drawn [B, F]) -> what the network sees.
      target: (clean latents, noise) -> what it learns to predict in the latents' channels.
      further_loss: (prediction with all channels, clean latents, noised latents, levels drawn) ->
        what training adds to the squared error of every frame [B, F]; None is nothing.
    """

    solver: Solver
    solvers: Mapping[str, Solver]
    noised: Callable[[Latents, Latents, LevelTable], Latents]
    target: Callable[[Latents, Latents], Latents]
    further_loss: Callable[[Prediction, Latents, Latents, LevelTable], Array] | None = None


def _on_the_straight_path(clean: Latents, noise: Latents, levels: LevelTable) -> Latents:
    return interpolate(clean, noise, levels.sigmas)


def _with_variance_kept(clean: Latents, noise: Latents, levels: LevelTable) -> Latents:
    """Gathers by the timesteps told, whole numbers from 0 to 999 (original: q_sample).

    A frame of level 0, which is told step 0 as a frame with the least noise is, stays as it is.
    """
    kept = jnp.asarray(np.sqrt(linear_betas().alphas_cumprod), jnp.float32)
    of_clean = jnp.where(levels.sigmas > 0, kept[levels.timesteps.astype(jnp.int32)], 1)
    return per_frame(of_clean) * clean + per_frame(levels.sigmas) * noise


def _noise(clean: Latents, noise: Latents) -> Latents:
    return noise


SOLVERS: Mapping[str, Solver] = {"euler": EULER, "ab2": AB2, "unipc": unipc(), "dpm++": dpmpp()}
"""Those of flow matching; UniPC and DPM++ of the order that Wan samples with."""

FLOW = Process(solver=EULER, solvers=SOLVERS, noised=_on_the_straight_path, target=velocity_target)
"""Flow matching, as Wan, Mochi and Pusa are trained."""

VARIANCE_PRESERVING = Process(
    solver=DDIM,
    solvers={"ddim": DDIM, "ddpm": ANCESTRAL},
    noised=_with_variance_kept,
    target=_noise,
    further_loss=variance_bound,
)
"""Diffusion along 1000 linear betas, as Latte and FVDM are trained."""
