"""Which latent frames are given and how noisy they are kept.

A conditioned frame carries a multiplier m on its noise level: it starts as
(1 - m) * clean + m * noise, with the very noise that would have stood there, and is denoised
together with the rest along m times the schedule. m = 0 keeps it exactly; m = 1 is a free frame.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.typing import Latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameCondition:
    """One given latent frame.

    Attributes:
      index: its place, 0 to F - 1.
      latents: normalised VAE latents [B, 1, H, W, C].
      multiplier: factor on the frame's noise level, in [0, 1].
    """

    index: int
    latents: Float[Array, "B 1 H W C"]
    multiplier: float


def check_conditions(indices: Sequence[int], multipliers: Sequence[float], num_frames: int) -> None:
    """Raises ValueError unless places and multipliers make sense for a clip of F latent frames.

    Refused: counts that differ, a place outside 0..F-1 or named twice, a multiplier outside [0, 1],
    and conditioning every frame with multiplier 0, which leaves nothing to sample.
    """
    if len(indices) != len(multipliers):
        raise ValueError(
            f"one noise multiplier per conditioned frame is needed, got {len(multipliers)} "
            f"multipliers for {len(indices)} positions {list(indices)}."
        )
    for index in indices:
        if not 0 <= index < num_frames:
            raise ValueError(
                f"condition position {index} is outside the clip: use 0 to {num_frames - 1} "
                f"({num_frames} latent frames)."
            )
    twice = sorted({i for i in indices if list(indices).count(i) > 1})
    if twice:
        raise ValueError(f"condition position {twice[0]} is given twice; give each one once.")
    for multiplier in multipliers:
        if not 0 <= multiplier <= 1:
            raise ValueError(f"noise multiplier {multiplier} is outside [0, 1].")
    if len(indices) == num_frames and not any(multipliers):
        raise ValueError(
            f"all {num_frames} latent frames are given with multiplier 0: "
            "nothing is left to sample."
        )


def place(
    conditions: Sequence[FrameCondition], like: Latents
) -> tuple[Latents, Float[np.ndarray, " F"]]:
    """Lays conditions out over a clip.

    Args:
      conditions: in any order.
      like: latents of the shape and dtype of the clip.

    Returns:
      clean latents (zero where a frame is free) and the multiplier of every frame (1 where free).

    Raises:
      ValueError: see `check_conditions`, or given latents are not a frame of the clip.
    """
    multipliers = np.ones(like.shape[1], np.float32)
    check_conditions(
        [c.index for c in conditions], [c.multiplier for c in conditions], len(multipliers)
    )
    clean = np.zeros(like.shape, like.dtype)  # on the host: a device would compile for every place
    for condition in conditions:
        if condition.latents.shape != clean[:, :1].shape:
            raise ValueError(
                f"given latents must be {clean[:, :1].shape}, one frame of the clip, "
                f"got {condition.latents.shape}."
            )
        clean[:, condition.index] = np.asarray(condition.latents)[:, 0]
        multipliers[condition.index] = condition.multiplier
    return jnp.asarray(clean), multipliers
