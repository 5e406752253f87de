"""Step caches of other tools: the residual of all blocks is used again at some rows.

At a row that is computed, residual = (stream behind the blocks) - (stream before them); at one that
is not, the stream before the blocks, made anew, plus that residual goes to the head. Two published
rules say which rows are computed, both known before a run, as they see timesteps only:

  TeaCache  the relative change of the modulation adds up to a threshold (TeaCache4Wan2.1, here
            without the polynomial that is fitted to one model)
  MagCache  the residual's calibrated growth strays from 1 by a threshold, at most K rows in turn,
            never among the first fifth (arXiv 2506.09045)

Here the threshold follows from how many rows may be computed.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.tiny.passes.clips import GUIDANCE, Batch, LatentsOnHost
from pusa_jax.diffusion.rows import FINE
from pusa_jax.diffusion.sampling import start

LONGEST = 4
"""Rows in turn that MagCache leaves out; its largest published K."""


@functools.partial(jax.jit, static_argnums=4)
def _pass(dit: Any, latents: jax.Array, told: jax.Array, text: Any, computes: bool, old: jax.Array):
    """Velocity and residual of one pass."""
    h, w = latents.shape[2:4]
    _, ph, pw = dit.config.patch_size
    timesteps = jnp.broadcast_to(told[None], latents.shape[:2])
    time, modulation = jax.vmap(jax.vmap(dit.embed_timestep))(timesteps)
    x = dit.embed(latents)
    if computes:
        old = dit.run_blocks(x, modulation, text, (h // ph, w // pw)) - x
    return dit.predict(x + old, time, (h, w)), old


def reused(
    batch: Batch, computed: Sequence[int], on_residual: Callable[[float], None] | None = None
) -> LatentsOnHost:
    """Latents of Euler steps along all fine rows, residuals kept where a row is not computed.

    Args:
      batch: the clips.
      computed: rows.
      on_residual: told the mean size of the prompt's residual at every computed row.
    """
    table = batch.table(FINE)
    latents, kept = start(batch.clean, batch.noise, table), [jnp.zeros(())] * 2
    for i in range(FINE):
        told, velocities = jnp.asarray(table.timesteps[i]), []
        for which in (0, 1):  # prompt, negative prompt: a cache each
            text = jax.tree.map(lambda leaf, which=which: leaf[which], batch.prepared)
            velocity, kept[which] = _pass(
                batch.model.dit, latents, told, text, i in computed, kept[which]
            )
            velocities.append(velocity)
        if on_residual is not None and i in computed:
            on_residual(float(jnp.linalg.norm(kept[0], axis=-1).mean()))
        prompt, negative = velocities
        guided = negative + GUIDANCE * (prompt - negative)
        latents = latents + guided * jnp.asarray(table.step_sizes[i])[None, :, None, None, None]
    return np.asarray(latents)


def teacache_rows(batch: Batch, count: int) -> tuple[int, ...]:
    """The rows that TeaCache's rule computes, with the threshold that makes them `count`."""
    table = batch.table(FINE)
    embed = jax.jit(jax.vmap(jax.vmap(batch.model.dit.embed_timestep)))
    modulation = np.asarray(embed(jnp.asarray(table.timesteps))[1])  # [S, F, 6, D]
    changes = [
        float(np.abs(now - before).mean() / np.abs(before).mean())
        for before, now in itertools.pairwise(modulation)
    ]

    def rows(threshold: float) -> tuple[int, ...]:
        computed, gone = [0], 0.0
        for i in range(1, FINE):
            gone += changes[i - 1]
            if gone >= threshold or i == FINE - 1:
                computed.append(i)
                gone = 0.0
        return tuple(computed)

    return _with(rows, count, sum(changes))


def magcache_rows(growth: Float[np.ndarray, " S"], count: int) -> tuple[int, ...]:
    """The rows that MagCache's rule computes.

    Args:
      growth: size of the residual at each fine row by that at the row before.
      count: how many rows.
    """

    def rows(threshold: float) -> tuple[int, ...]:
        computed, product, strayed = [0], 1.0, 0.0
        for i in range(1, FINE):
            product *= growth[i]
            strayed += abs(1 - product)
            is_long = i - computed[-1] > LONGEST
            if i < FINE // 5 or strayed >= threshold or is_long:
                computed.append(i)
                product, strayed = 1.0, 0.0
        return tuple(computed)

    return _with(rows, count, float(FINE))


def _with(rows: Callable[[float], tuple[int, ...]], count: int, highest: float) -> tuple[int, ...]:
    """The rows of the threshold, found by halving, that leaves at most so many."""
    low, high = 0.0, highest
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if len(rows(middle)) > count else (low, middle)
    return rows(high)
