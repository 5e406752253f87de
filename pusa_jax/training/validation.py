"""The loss on clips that are not trained on, with draws that never change.

A clip's noise and levels follow from its number among the held-out clips alone: curves of one run,
of runs of other seeds or settings, on other devices or in other batches show the same draws.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pusa_jax.data.batches import Clips
from pusa_jax.diffusion.timesteps import clip_keys
from pusa_jax.training.layout import Placement
from pusa_jax.training.objective import noised_batch
from pusa_jax.training.state import Params
from pusa_jax.training.step import Batch, Frozen, Recipe, loss_of

SEED = 20250722
"""Of the draws, in all runs."""


def held_out(clips: Clips, asked: str) -> tuple[Clips, Clips | None]:
    """The clips to train on, and those to validate on; none where nothing is asked for.

    Args:
      clips: all.
      asked: a number of clips, or a part of them between 0 and 1; they are evenly spread over the
        list, the same in every run.

    Raises:
      ValueError: neither, or as many as there are.
    """
    if not asked:
        return clips, None
    try:
        number = float(asked)
    except ValueError:
        number = -1.0
    count = round(number * len(clips)) if 0 < number < 1 else number
    if not 0 < count < len(clips) or count != int(count):
        raise ValueError(
            f"data.validation must be a folder, a number of clips or a part of them that leaves "
            f"some to train on, got {asked!r:.80} of {len(clips)} clips."
        )
    chosen = {int((i + 0.5) * len(clips) / count) for i in range(int(count))}
    rest = [i for i in range(len(clips)) if i not in chosen]
    return clips.part(rest), clips.part(sorted(chosen))


def losses(
    recipe: Recipe, params: Params, frozen: Frozen, batch: Batch, numbers: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Loss of every clip of a batch, weighted as in training; no caption is dropped.

    A coin that is flipped for the batch in training is here flipped for every clip, whose draws
    would else not be its own.

    Args:
      recipe: what is trained; a batch is computed in as many parts as in training.
      params: what is trained.
      frozen: what is only read.
      batch: clips.
      numbers: of the clips among those that are held out.
    """
    levels = recipe.objective.levels
    if levels.sampler == "ptss_per_batch":
        levels = dataclasses.replace(levels, sampler="ptss")
    objective = dataclasses.replace(recipe.objective, levels=levels, text_dropout=0.0)
    keys, parts = clip_keys(jax.random.key(SEED), numbers), recipe.optimizer.accumulate

    def some(part: Any) -> Float[Array, " b"]:
        batch, keys = part
        noised = noised_batch(
            keys,
            batch["latents"],
            batch["text"],
            frozen.no_text,
            objective,
            recipe.statistics,
            recipe.family.process,
        )
        return loss_of(recipe, params, frozen.base, noised)[1]["losses"]

    # [B, ...] -> [parts, B / parts, ...] as in training: clip i is in part i % parts.
    cut = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), (dict(batch), keys)
    )
    return jnp.swapaxes(jax.lax.map(some, cut), 0, 1).reshape(-1)


class Validation:
    """The mean loss of held-out clips, as often as it is asked for."""

    def __init__(self, recipe: Recipe, clips: Clips, placed: Placement):
        """Compiles the program for the batches of a run."""
        self._clips, self._placed = clips, placed
        self._batch_size = placed.batch["latents"].shape[0]
        numbers = jax.ShapeDtypeStruct((self._batch_size,), jnp.int32, sharding=placed.everywhere)
        program = jax.jit(functools.partial(losses, recipe), out_shardings=placed.everywhere)
        shapes = placed.state.params, placed.frozen, placed.batch, numbers
        self._losses: Callable[..., jax.Array] = program.lower(*shapes).compile()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._clips)

    def __call__(self, params: Params, frozen: Frozen) -> float:
        """The mean over all clips; every process gets the same."""
        found: list[float] = []
        rows = self._placed.rows()
        for first in range(0, len(self), self._batch_size):
            # The last batch is filled up with clips that do not count.
            numbers = (first + np.arange(self._batch_size, dtype=np.int32)) % len(self)
            batch = self._placed.global_batch(self._clips.at([int(numbers[row]) for row in rows]))
            where = jax.device_put(numbers, self._placed.everywhere)
            several = jax.device_get(self._losses(params, frozen, batch, where))
            found += several[: len(self) - first].tolist()
        return float(np.mean(np.asarray(found, np.float64)))
