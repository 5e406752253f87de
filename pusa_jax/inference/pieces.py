"""A clip longer than its model makes: in pieces, each of which begins with the end of the last.

    piece 1:  noise ------------------------> latents 0 .. F-1
    piece 2:  [last M of piece 1 | noise] --> latents, the first M of which are left out
    piece 3:  [last M of piece 2 | noise] --> ...

The method is FVDM's (arXiv 2410.03160; `ddim_sample_loop_progressive_video` with num > 0): 15
pieces of 16 frames with M = 8 make 128. Nothing of a piece stays on the devices.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.settings import Configs
from pusa_jax.models.family import Family
from pusa_jax.progress import Progress

Clip = Float[np.ndarray, "B F h w C"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """How a clip is cut.

    Attributes:
      frames: latent frames of a piece.
      overlap: of each piece but the first, those taken over from the one before.
      total: latent frames of the clip.
    """

    frames: int
    overlap: int
    total: int

    def __post_init__(self):
        if not 1 <= self.overlap < self.frames:
            raise ValueError(
                f"pieces of {self.frames} frames can take over 1 to {self.frames - 1} of the one "
                f"before, got {self.overlap}."
            )
        if self.total <= self.frames:
            raise ValueError(
                f"a clip in pieces has more than the {self.frames} frames of one, got "
                f"{self.total}: say how long it is to be, as with --num_frames {4 * self.frames}."
            )

    @property
    def count(self) -> int:
        """How many pieces there are; the last may give fewer frames than the others."""
        return 1 + -(-(self.total - self.frames) // (self.frames - self.overlap))


def pieces_of(
    settings: SamplingConfig, overlap: int | None, family: Family, configs: Configs
) -> tuple[SamplingConfig, Pieces | None]:
    """The settings of one piece, and how the clip is cut; None where it is made in one.

    Raises:
      ValueError: the model makes no pieces, or numbers that make none.
    """
    if overlap is None:
        return settings, None
    if family.renoised is None:
        raise ValueError(f"{family.name} makes no clips in pieces; leave out --overlap.")
    own, total = configs.fitted(family).num_frames, settings.num_frames
    pieces = Pieces(frames=own, overlap=overlap, total=total)
    return dataclasses.replace(settings, num_frames=own), pieces


def check_given(places: Sequence[int], pieces: Pieces) -> None:
    """Raises ValueError if frames are given behind the first piece."""
    if beyond := [place for place in places if place >= pieces.frames]:
        raise ValueError(
            f"frames are given to the first piece, places 0 to {pieces.frames - 1}, got "
            f"{beyond[0]}."
        )


def seed_of(seed: int, piece: int) -> int:
    """The seed of a piece: the first has the clip's, the noise of others is drawn anew."""
    if not piece:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {piece}".encode()).digest()[:8], "big")


def progress_of_piece(on_progress: Progress, number: int, count: int) -> Progress:
    """What a piece tells of itself, as a part of its clip."""

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            on_progress(stage, number * total + done, count * total)
        elif not number:  # further pieces run the program of the first
            on_progress(stage, done, total)

    return tell


def carried(latents: Clip, overlap: int) -> list[FrameCondition]:
    """The last frames of a piece as the first of the next, as they are."""
    first = latents.shape[1] - overlap
    return [
        FrameCondition(index=i, latents=jnp.asarray(latents[:, first + i][:, None]), multiplier=0.0)
        for i in range(overlap)
    ]


def sample_pieces(
    sample: Callable[[int, Sequence[FrameCondition] | None], Clip], pieces: Pieces
) -> Iterator[Clip]:
    """Yields what each piece adds to the clip.

    Args:
      sample: (number of the piece, what it begins with, None for the first) -> its latents.
      pieces: how the clip is cut.
    """
    latents = sample(0, None)
    yield latents
    left = pieces.total - pieces.frames
    for number in range(1, pieces.count):
        latents = sample(number, carried(latents, pieces.overlap))
        new = latents[:, pieces.overlap :][:, :left]
        left -= new.shape[1]
        yield new
