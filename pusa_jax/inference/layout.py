"""Which frames of a clip were given and where pieces meet, for readers who have no model.

Latent places become pixel frames by the stride of the autoencoder alone: the first latent frame
stands for one, every later one for `stride`.
"""

import dataclasses
from collections.abc import Sequence

from pusa_jax.diffusion.tasks import Condition, latent_frames
from pusa_jax.inference.loading import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a video holds beside its job.

    Attributes:
      stride: pixel frames of a latent frame.
      fps: frames per second that given clips were brought to, unless the job keeps theirs.
      at: places of the given latent frames, in order.
      multipliers: the noise multiplier of each.
      piece: latent frames of a piece; None where the clip was made in one.
    """

    stride: int
    fps: float
    at: tuple[int, ...] = ()
    multipliers: tuple[float, ...] = ()
    piece: int | None = None

    def __post_init__(self):
        if self.stride < 1 or not 0 < self.fps <= 1000 or len(self.at) != len(self.multipliers):
            raise ValueError(f"no clip is laid out like this: {self}.")


def layout_of(conditions: Sequence[Condition], model: Model, overlap: int | None) -> Layout:
    """The layout of a job that was prepared."""
    given = sorted(
        pair for each in conditions for pair in zip(each.at, each.multipliers, strict=True)
    )
    stride = model.configs.vae.temporal_stride
    piece = None if overlap is None else model.configs.fitted(model.family).num_frames
    return Layout(
        stride=stride,
        fps=float(model.family.sampling.fps),
        at=tuple(place for place, _ in given),
        multipliers=tuple(float(multiplier) for _, multiplier in given),
        piece=None if piece is None else latent_frames(piece, stride),
    )


def pixels_of(place: int, stride: int) -> range:
    """Pixel frames that a latent frame stands for."""
    return range(1) if place == 0 else range(stride * (place - 1) + 1, stride * place + 1)


def joints(layout: Layout, overlap: int | None, num_frames: int) -> list[int]:
    """First pixel frames of all pieces but the first."""
    if layout.piece is None or overlap is None or not 1 <= overlap < layout.piece:
        return []
    firsts, place = [], layout.piece
    while pixels_of(place, layout.stride)[0] < num_frames:
        firsts.append(pixels_of(place, layout.stride)[0])
        place += layout.piece - overlap
    return firsts
