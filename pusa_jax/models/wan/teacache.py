"""TeaCache as Pusa's pipelines have it: the blocks' residual is used again where little changes.

The change of a step is that of its modulation against the step before, whether that was computed or
not: mean |m - m_before| / mean |m_before| over all tokens. A polynomial, fitted to one model, turns
it into the change to expect of the blocks, and these add up until they reach the threshold: then
the step is computed. The first and the last always are. (pusa-v1: wan_video_pusa_v2v.py, TeaCache.)

Only timesteps decide, so that the steps are known before a run. A frame given without noise never
changes, and lowers the mean: the more is given, the more is left out.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.config import TeaCache
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import TextKV, Tokens, WanDiT
from pusa_jax.typing import Latents, Timesteps

POLYNOMIALS = {
    "1.3B": (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),
    "14B": (-3.03318725e5, 4.90537029e4, -2.65530556e3, 58.7365115, -0.315583525),
}
"""Model -> coefficients, highest power first."""

DIMS = {1536: "1.3B", 5120: "14B"}
"""Width -> model that a polynomial was fitted to."""


def polynomial_of(cache: TeaCache, config: DiTConfig) -> tuple[float, ...]:
    """The coefficients for a network.

    Raises:
      ValueError: none were published for it, and none are named.
    """
    name = cache.polynomial or DIMS.get(config.dim)
    if name not in POLYNOMIALS:
        raise ValueError(
            f"TeaCache's polynomials are published for {' and '.join(POLYNOMIALS)}, not for "
            f"{name or f'a network of width {config.dim}'}: leave it out, or name one of them."
        )
    return POLYNOMIALS[name]


def check(cache: TeaCache, config: DiTConfig) -> None:
    """Raises ValueError for a network that no polynomial fits."""
    polynomial_of(cache, config)


def decide(
    cache: TeaCache,
    dits: Callable[[int], WanDiT],
    timesteps: Float[np.ndarray, "S F"],
    served: Sequence[int],
    is_new: Sequence[bool],
) -> list[bool]:
    """Which steps are without blocks; see `models.family.Reuse`."""
    polynomial = polynomial_of(cache, dits(served[0]).config)
    computed = [False] * len(served) if cache.original else is_new
    changed = changes(dits, timesteps, served)
    return left_out(changed, cache.threshold, polynomial, computed)[0]


def changes(
    dits: Callable[[int], WanDiT], timesteps: Float[np.ndarray, "S F"], served: Sequence[int]
) -> Float[np.ndarray, " S"]:
    """The relative change of the modulation at every step; 0 at the first.

    Args:
      dits: number of an expert -> its network.
      timesteps: told at each step.
      served: which expert takes each step.
    """
    rows: dict[int, np.ndarray] = {}
    for expert in dict.fromkeys(served):
        steps = [i for i, other in enumerate(served) if other == expert]
        modulation = _modulations(dits(expert), jnp.asarray(timesteps[steps]))
        rows |= dict(zip(steps, np.asarray(modulation, np.float32), strict=True))
    found = np.zeros(len(served), np.float32)
    for i in range(1, len(served)):
        found[i] = np.abs(rows[i] - rows[i - 1]).mean() / np.abs(rows[i - 1]).mean()
    return found


@jax.jit
def _modulations(dit: WanDiT, timesteps: Float[Array, "S F"]) -> Float[Array, "S F 6 D"]:
    return jax.vmap(jax.vmap(lambda told: dit.embed_timestep(told)[1]))(timesteps)


def left_out(
    changed: Float[np.ndarray, " S"],
    threshold: float,
    polynomial: Sequence[float],
    is_new: Sequence[bool],
) -> tuple[list[bool], list[float]]:
    """Which steps use the last residual again, and what has added up behind each decision.

    Args:
      changed: see `changes`.
      threshold: of what adds up.
      polynomial: see `POLYNOMIALS`.
      is_new: steps that are computed whatever has changed. The original has none: its cache goes on
        when the expert changes, where the polynomial jumps far below 0 and leaves out all the rest.
    """
    steps, sums, total = [], [], 0.0
    for i, change in enumerate(changed):
        total += float(np.polyval(polynomial, change))
        is_computed = i in (0, len(changed) - 1) or is_new[i] or total >= threshold
        total = 0.0 if is_computed else total
        steps.append(not is_computed)
        sums.append(total)
    return steps, sums


def velocity_and_residual(
    dit: WanDiT, latents: Latents, timesteps: Timesteps, text: TextKV, residual: Tokens | None
) -> tuple[Latents, Tokens]:
    """The velocity, and what the blocks have added to the stream; given that, they are left out."""
    h, w = latents.shape[2:4]
    _, ph, pw = dit.config.patch_size
    time, modulation = jax.vmap(jax.vmap(dit.embed_timestep))(timesteps)
    x = dit.embed(latents)
    if residual is None:
        residual = dit.run_blocks(x, modulation, text, (h // ph, w // pw)) - x
    return dit.predict(x + residual, time, (h, w)).astype(latents.dtype), residual
