"""Training-time noise levels: the table they are drawn from, the draws, and the weight of a level.

A draw is an index into a table of 1000 levels per latent frame; index 1000 is "clean". Of a model
with several experts, the one that is trained draws from its own part of the table only.

  independent        every frame its own draw (Pusa, arXiv 2507.16116)
  ptss               with `probability` every frame its own draw, else one for the clip (FVDM,
                     arXiv 2410.03160)
  ptss_per_batch     the same with one coin for all clips of a step, as in FVDM's code
  shared             one draw for the clip: the base model's training
  first_frame_clean  frame 0 clean, the others share one draw: an image-to-video control
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Int, Key

from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.diffusion.grids import linear_quadratic
from pusa_jax.diffusion.linear_betas import linear_betas

LEVELS = 1000
"""Entries of the training table; also the unit of Wan's timesteps."""

Schedule = Literal["shifted", "linear_quadratic", "linear_betas"]
"""Of a family's table: shifted, told 1000 * sigma; or, both without weights, linear-quadratic, told
1000 * (1 - sigma), and steps 999 to 0 of variance-preserving diffusion, sigma = sqrt(1 - abar)."""

Sampler = Literal["independent", "ptss", "ptss_per_batch", "shared", "first_frame_clean"]

OF_THE_BATCH = 2**32 - 1
"""Folded into a step's key for what is drawn once for all clips; clips have the small numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """How noise levels are drawn in training.

    Attributes:
      sampler: which frames share a draw, see the module.
      probability: of independent frames, for "ptss" and "ptss_per_batch". Where FVDM's code has a
        coin for each step and process, "ptss_per_batch" has one for each step on all devices.
      shift: of the table; Wan and Pusa use 5.
      rounding: dtype through which the timesteps of a shifted table pass before they are looked up
        and told to the network; Pusa trains with "bfloat16", which leaves 294 different levels.
      schedule: of the table; a run takes that of its model.
      lowest, highest: levels that are drawn, from the lowest up to the highest, which is drawn
        itself only if it is 1; a run narrows them to those of the expert it trains.
      even: levels lie evenly in (0, 1] instead of as in the linear-quadratic table, as genmo's
        trainer of LoRA draws them; the shifted table does so at shift 1, that of betas never.
    """

    sampler: Sampler = "independent"
    probability: float = 0.2
    shift: float = 5.0
    rounding: Literal["none", "bfloat16"] = "bfloat16"
    schedule: Schedule = "shifted"
    lowest: float = 0.0
    highest: float = 1.0
    even: bool = False

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}.")
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift}.")
        if not 0 <= self.lowest < self.highest <= 1:
            raise ValueError(
                f"levels are drawn from lowest to highest within [0, 1], got lowest={self.lowest} "
                f"and highest={self.highest}."
            )
        drawn_indices(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelTable:
    """What follows from an index: the whole table, whose last entry is a clean frame, or a draw.

    Attributes:
      sigmas: noise level.
      timesteps: what the network is told, 0..1000.
      weights: loss weight, mean 1 over the table; 0 for pure noise and for clean.
    """

    sigmas: Float[Array, "*axes"]
    timesteps: Float[Array, "*axes"]
    weights: Float[Array, "*axes"]

    def at(self, indices: Int[Array, "*axes"]) -> "LevelTable":
        """The entries of drawn indices."""
        return jax.tree.map(lambda column: column[indices], self)


def level_table(config: LevelConfig) -> LevelTable:
    """The table of `LEVELS` + 1 entries that draws index."""
    clean = {"sigmas": 0, "timesteps": told(0.0, config.schedule), "weights": 0}
    columns = _noised_levels(config).items()
    return LevelTable(**{n: jnp.asarray(np.append(c, np.float32(clean[n]))) for n, c in columns})


def told(sigma: float, schedule: Schedule) -> float:
    """What a network of a family is told of a level, exactly; of linear betas, the nearest step."""
    match schedule:
        case "shifted":
            return LEVELS * sigma
        case "linear_quadratic":
            return LEVELS * (1 - sigma)
        case "linear_betas":
            return float(np.abs(_levels_of_betas() - sigma).argmin())


def _levels_of_betas() -> Float[np.ndarray, " S"]:
    """Share of noise in the latents of each step, as an amplitude: sqrt(1 - abar), rising."""
    return np.sqrt(1 - linear_betas().alphas_cumprod)


def _noised_levels(config: LevelConfig) -> dict[str, Float[np.ndarray, " S"]]:
    """Columns of the table without its last entry, on the host.

    Parity: the original rounds a timestep first and then takes level and weight of the entry of the
    unrounded table that is nearest to it (FlowMatchSchedulerPusa.add_noise, training_weight).
    """
    if config.schedule != "shifted":
        exact, timesteps = _unweighted_levels(config)
        columns = {"sigmas": exact, "timesteps": timesteps, "weights": np.ones(LEVELS)}
        return {name: column.astype(np.float32) for name, column in columns.items()}
    sigmas = pusa_schedule(LEVELS, config.shift)
    exact = sigmas[:-1] * np.float32(LEVELS)
    dtype = ml_dtypes.bfloat16 if config.rounding == "bfloat16" else np.float32
    timesteps = exact.astype(dtype).astype(np.float32)
    nearest = np.abs(exact[None] - timesteps[:, None]).argmin(axis=1)
    return {
        "sigmas": sigmas[nearest],
        "timesteps": timesteps,
        "weights": bell_weights(exact)[nearest],
    }


def _unweighted_levels(config: LevelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Levels and timesteps of tables whose entries are told as they are, in float64."""
    if config.schedule == "linear_betas":
        return _levels_of_betas()[::-1], np.arange(LEVELS)[::-1]
    exact = 1 - np.arange(LEVELS) / LEVELS if config.even else linear_quadratic(LEVELS)[:-1]
    return exact, LEVELS * (1 - exact)


@functools.cache
def drawn_indices(config: LevelConfig) -> tuple[int, int]:
    """First index that is drawn, and one past the last: levels fall along the table.

    An entry is drawn if both its level and the timestep that is told, which may be rounded across
    the end of the range, lie within it.

    Raises:
      ValueError: no entry does.
    """
    # Parity: Pusa V0.5 draws 0 to 998 of Mochi's table (train_pusa.py), whose last is level 0.0077.
    is_short = config.schedule == "linear_quadratic" and not config.even
    end = LEVELS - 1 if is_short else LEVELS
    if (config.lowest, config.highest) == (0, 1):
        return 0, end
    table = _noised_levels(config)
    is_in = np.arange(LEVELS) < end
    levels_told = [table["timesteps"] / LEVELS] if config.schedule == "shifted" else []
    for levels in (table["sigmas"], *levels_told):
        is_in &= levels >= config.lowest
        is_in &= (levels < config.highest) | (config.highest == 1)
    indices = np.flatnonzero(is_in)
    if not indices.size:
        raise ValueError(
            f"no level of the training table lies between lowest={config.lowest} and "
            f"highest={config.highest}; widen the range."
        )
    return int(indices[0]), int(indices[-1]) + 1


def draw_clip(
    key: Key[Array, ""], frames: int, config: LevelConfig, step_key: Key[Array, ""] | None = None
) -> Int[Array, " F"]:
    """Draws the table index of every latent frame of one clip.

    Args:
      key: of the clip.
      frames: of the clip.
      config: how levels are drawn.
      step_key: what the keys of all clips of the step were made of; "ptss_per_batch" needs it.

    Raises:
      ValueError: it is needed and not given.
    """
    shared_key, frames_key, coin_key = jax.random.split(key, 3)
    drawn = drawn_indices(config)
    shared = jnp.broadcast_to(jax.random.randint(shared_key, (), *drawn), (frames,))
    own = jax.random.randint(frames_key, (frames,), *drawn)
    match config.sampler:
        case "independent":
            return own
        case "shared":
            return shared
        case "first_frame_clean":
            return shared.at[0].set(LEVELS)
        case "ptss":
            return jnp.where(jax.random.bernoulli(coin_key, config.probability), own, shared)
        case "ptss_per_batch":
            if step_key is None:
                raise ValueError("the sampler ptss_per_batch needs the key of the step, got None.")
            coin_key = jax.random.fold_in(step_key, OF_THE_BATCH)
            return jnp.where(jax.random.bernoulli(coin_key, config.probability), own, shared)


def draw(
    key: Key[Array, ""], batch: int, frames: int, config: LevelConfig
) -> Int[Array, "batch frames"]:
    """Draws table indices for the batch of a step; clip i depends on the key and on i alone."""
    keys = clip_keys(key, jnp.arange(batch))
    return jax.vmap(lambda k: draw_clip(k, frames, config, key))(keys)


def clip_keys(key: Key[Array, ""], positions: Int[Array, " B"]) -> Key[Array, " B"]:
    """One key per clip, from its position in the batch of the step."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)


def bell_weights(timesteps: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Loss weight of every entry of a training table, mean 1 and 0 at the pure-noise end.

    exp(-2 ((t - 500) / 1000)^2) less its minimum, normalised over the table (original:
    FlowMatchSchedulerPusa.set_timesteps with training=True).

    Args:
      timesteps: the whole table in units of 0..1000; its length takes the place of 1000.
    """
    count = np.float32(len(timesteps))
    bell = np.exp(-2 * ((timesteps.astype(np.float32) - count / 2) / count) ** 2)
    above = bell - bell.min()
    return (above * (count / above.sum())).astype(np.float32)
