"""The training objective: noise every latent frame to its own level, predict what was done to it.

    clean [B,F,H,W,C] + key -> noised latents, target, timesteps [B,F] -> network -> loss [B]

How a frame is noised, and what is predicted, is its family's process: of flow matching the velocity
noise - clean, of variance-preserving diffusion the noise, and its variance beside.

Everything random about a clip comes from one key made of the step and its place in the batch, and
everything is computed clip by clip: a clip's loss and gradient do not depend on its batch mates.
Only the coin of the sampler "ptss_per_batch" is the step's.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pusa_jax.diffusion.process import FLOW, Process
from pusa_jax.diffusion.timesteps import LevelConfig, LevelTable, draw_clip, level_table
from pusa_jax.typing import Latents, Prediction, Text

Weighting = Literal["pusa", "per_frame", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned.

    Attributes:
      levels: how noise levels are drawn.
      weighting: of a clip's squared error by the weights of its frames' levels. "pusa" is the
        original: mean error times mean weight, a frame's weight does not act on its own error;
        "per_frame": every frame's error by its own weight; "none": the mean error.
      text_dropout: probability that a clip is trained without its caption. The original does not.
      original_input: noise clips as the original does where it does not normalise them first (Pusa
        V0.5: only the target is normalised); else clips are normalised throughout.
    """

    levels: LevelConfig = LevelConfig()
    weighting: Weighting = "pusa"
    text_dropout: float = 0.0
    original_input: bool = True

    def __post_init__(self):
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"text_dropout must be in [0, 1), got {self.text_dropout}.")


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each latent channel."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedBatch:
    """A batch as the network sees it, and what it should answer.

    Attributes:
      clean: latents that were noised, [B, F, h, w, C] float32.
      noised: the same at the drawn levels.
      target: what is to be predicted in the latents' channels: velocity or noise.
      levels: level, timestep and weight of every frame, each [B, F].
      text: features of the captions, [B, L, E]; those of the empty prompt where one is dropped.
    """

    clean: Latents
    noised: Latents
    target: Latents
    levels: LevelTable
    text: Text


def noised_batch(
    keys: Key[Array, " B"],
    clean: Latents,
    text: Text,
    no_text: Float[Array, "1 L E"],
    config: ObjectiveConfig,
    statistics: Statistics | None = None,
    process: Process = FLOW,
    step_key: Key[Array, ""] | None = None,
) -> NoisedBatch:
    """Draws levels, noise and text dropout.

    Parity: the original draws the noise, and takes noise - clean, in bfloat16; this is float32.

    Args:
      keys: one per clip, see `timesteps.clip_keys`.
      clean: normalised latents.
      text: captions.
      no_text: features of the empty prompt, [1, L, E].
      config: what is learned.
      statistics: of the latents, see `noised_batch_at`.
      process: how latents are noised.
      step_key: what `keys` were made of, see `timesteps.draw_clip`.
    """
    clean = clean.astype(jnp.float32)
    table = level_table(config.levels)

    def one(key, clean):
        level_key, noise_key, text_key = jax.random.split(key, 3)
        indices = draw_clip(level_key, clean.shape[0], config.levels, step_key)  # [F]
        noise = jax.random.normal(noise_key, clean.shape, jnp.float32)  # [F, h, w, C]
        return indices, noise, jax.random.bernoulli(text_key, config.text_dropout)

    indices, noise, is_dropped = jax.vmap(one)(keys, clean)  # [B, F], [B, F, h, w, C], [B]
    if config.text_dropout > 0:
        text = jnp.where(is_dropped[:, None, None], no_text.astype(text.dtype), text)
    levels = table.at(indices)  # each [B, F]
    return noised_batch_at(clean, noise, levels, text, statistics, process)


def noised_batch_at(
    clean: Latents,
    noise: Latents,
    levels: LevelTable,
    text: Text,
    statistics: Statistics | None = None,
    process: Process = FLOW,
) -> NoisedBatch:
    """The batch of given draws: noise of the latents' shape, and levels [B, F].

    Parity: with `statistics`, Pusa V0.5's way. Clips are noised without their normalisation, and
    what is learned is the normalised difference (train_pusa.py: ((z_0 - noise) - mean) / std).
    """
    if statistics is None:
        target = process.target(clean, noise)  # the same at every level
    else:
        mean, std = jnp.asarray(statistics, jnp.float32).reshape(2, 1, 1, 1, 1, -1)
        clean = clean * std + mean
        target = (process.target(clean, noise) + mean) / std
    noised = process.noised(clean, noise, levels)
    return NoisedBatch(clean=clean, noised=noised, target=target, levels=levels, text=text)


def frame_errors(predicted: Prediction, target: Latents) -> Float[Array, "B F"]:
    """Mean squared error of every latent frame in the latents' channels, float32."""
    predicted = predicted[..., : target.shape[-1]].astype(jnp.float32)
    squared = jnp.square(predicted - target)  # [B, F, h, w, C]
    return jnp.mean(squared, axis=(2, 3, 4))


def clip_losses(
    errors: Float[Array, "B F"], levels: LevelTable, weighting: Weighting
) -> Float[Array, " B"]:
    """Loss of every clip from the errors of its frames.

    Clean frames (level 0, drawn by "first_frame_clean" only) carry no noise that could be
    predicted: they count neither in the error nor in the weight.
    """
    is_noised = levels.sigmas > 0  # [B, F]

    def mean(x):  # [B, F] -> [B], over the noised frames
        count = jnp.maximum(jnp.sum(is_noised, axis=1), 1)
        return jnp.sum(jnp.where(is_noised, x, 0), axis=1) / count

    match weighting:
        case "pusa":
            return mean(errors) * mean(levels.weights)
        case "per_frame":
            return mean(errors * levels.weights)
        case "none":
            return mean(errors)
