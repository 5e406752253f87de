"""FVDM's tasks, many clips at a time, with the plans and the programs of `pusa-jax generate`.

plain           noise alone
image-to-video  frame 0 given
interpolation   the first and the last frame given
long            chunks of 16 frames, each of which begins with the last 8 of the one before
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.tiny.fvdm.codec import Codes
from experiments.tiny.fvdm.training import CELLS, DIT, FRAMES, no_labels
from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.inference.pieces import Pieces, sample_pieces
from pusa_jax.inference.step import sample_at_once
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.family import LATTE
from pusa_jax.models.latte.schedule import renoised
from pusa_jax.typing import Latents

OVERLAP = 8
"""Frames that a chunk takes over."""

TASKS = {"plain": (), "image-to-video": (0,), "interpolation": (0, FRAMES - 1)}
"""Task -> places of the frames that are given."""


def conditions(truth: Codes, places: Sequence[int]) -> list[FrameCondition]:
    """Frames of true clips, as FVDM gives them: at index 0, predicted anew at every step."""
    return [
        FrameCondition(index=i, latents=jnp.asarray(truth[:, i : i + 1]), multiplier=0.0)
        for i in places
    ]


def clips(
    dit: LatteVideo, given: Sequence[FrameCondition], steps: int, count: int, key: Key[Array, ""]
) -> Codes:
    """Clips of 16 frames."""
    return _sampled(dit, given, steps, count, key, is_piece=False)


def long_clips(dit: LatteVideo, frames: int, steps: int, count: int, key: Key[Array, ""]) -> Codes:
    """Clips of any length, with nothing given."""

    def piece(number: int, begin: Sequence[FrameCondition] | None) -> Codes:
        own = jax.random.fold_in(key, number)
        return _sampled(dit, begin or (), steps, count, own, is_piece=begin is not None)

    cut = Pieces(frames=FRAMES, overlap=OVERLAP, total=frames)
    return np.concatenate(list(sample_pieces(piece, cut)), axis=1)


def _sampled(
    dit: LatteVideo,
    given: Sequence[FrameCondition],
    steps: int,
    count: int,
    key: Key[Array, ""],
    is_piece: bool,
) -> Codes:
    shape = (count, FRAMES, CELLS, CELLS, DIT.in_dim)
    noise = jax.random.normal(key, shape, jnp.float32)
    clean, multipliers = place(given, noise)
    table = LATTE.table(
        SamplingConfig(num_steps=steps, solver="ddim"),
        multipliers,
        is_conditioned=bool(given),
        compute_dtype=DIT.compute_dtype,
    )
    if is_piece:
        table = renoised(table)
    return np.asarray(_program(dit, clean, noise, jax.tree.map(jnp.asarray, table)))


@jax.jit
def _program(
    dit: LatteVideo, clean: Latents, noise: Latents, table: NoiseTable
) -> Float[Array, "B F h w C"]:
    labels = no_labels(len(noise))
    return sample_at_once(LATTE, dit, (labels, labels), clean, noise, table, jnp.float32(1))
