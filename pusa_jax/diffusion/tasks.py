"""The tasks. Each one only says which pixel frames are given, where they go and how noisy.

Places count latent frames: the first stands for one pixel frame, every later one for `stride`
(Wan: 4). Default multipliers are those published for Pusa V1.0 (README and arXiv 2507.16116v2); 0
keeps a frame exactly, more gives the model more freedom around it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pusa_jax.media.frames import as_clip, as_picture

Frames = Any
"""A clip [T, H, W, 3] of uint8 or floats in [0, 1], or a sequence of such pictures or Pillow's."""

Image = Any
"""A picture [H, W, 3] of uint8 or of floats in [0, 1], or an image of Pillow."""

EXTENSION = (0, 1, 2, 3)
"""Latent frames that an extension keeps by default: 13 pixel frames where the stride is 4."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """Pixel frames encoded together, and what becomes of the latent frames they give.

    Attributes:
      frames: uint8 [T, H, W, 3], T = 1 + stride * k; what else `Frames` may be becomes this.
      take: which latent frames of the encoded clip are used.
      at: the place of each in the result.
      multipliers: the noise multiplier of each.
    """

    frames: Any
    take: tuple[int, ...]
    at: tuple[int, ...]
    multipliers: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "frames", as_clip(self.frames))


def latent_frames(num_frames: int, stride: int) -> int:
    """Latent frames F of a clip of pixel frames.

    Raises:
      ValueError: num_frames is not stride * k + 1; the message has the nearest valid counts.
    """
    below = max((num_frames - 1) // stride, 0) * stride + 1
    if num_frames != below or num_frames < 1:
        raise ValueError(
            f"the number of frames must be {stride}k+1, got {num_frames}; "
            f"nearest are {below} and {below + stride}."
        )
    return (num_frames - 1) // stride + 1


def pixel_frames(count: int, stride: int) -> int:
    """Pixel frames of the first `count` latent frames."""
    return (count - 1) * stride + 1


def images_at(
    images: Sequence[Image], at: Sequence[int], multipliers: Sequence[float]
) -> list[Condition]:
    """Single pictures at given places, each encoded alone.

    Raises:
      ValueError: numbers of images, places and multipliers differ.
    """
    if not len(images) == len(at) == len(multipliers):
        raise ValueError(
            f"numbers of images, positions and noise multipliers must agree, got {len(images)}, "
            f"{len(at)} and {len(multipliers)}."
        )
    return [
        Condition(frames=as_picture(image)[None], take=(0,), at=(place,), multipliers=(multiplier,))
        for image, place, multiplier in zip(images, at, multipliers, strict=True)
    ]


def video_at(
    frames: Frames, at: Sequence[int], multipliers: Sequence[float], stride: int
) -> list[Condition]:
    """Latent frames of one clip kept where they are: completion, extension.

    The clip is encoded in one pass, so that a late frame has seen the frames before it, and cut
    behind the last frame that is used.

    Raises:
      ValueError: numbers of places and multipliers differ, or the clip is too short (with how many
        frames are needed).
    """
    if len(at) != len(multipliers):
        raise ValueError(
            f"numbers of positions and noise multipliers must agree, got {len(at)} and "
            f"{len(multipliers)}."
        )
    frames, needed = as_clip(frames), pixel_frames(max(at) + 1, stride)
    if len(frames) < needed:
        raise ValueError(
            f"the video has {len(frames)} frames, {needed} are needed for position {max(at)}."
        )
    places = tuple(at)
    return [
        Condition(frames=frames[:needed], take=places, at=places, multipliers=tuple(multipliers))
    ]


def image_to_video(
    image: Image, at: Sequence[int] | None = None, multipliers: Sequence[float] | None = None
) -> list[Condition]:
    """Starts from a picture; default multiplier 0.2."""
    return images_at([image], *_or_defaults(at, multipliers, (0,), (0.2,)))


def start_end(
    first: Image,
    last: Image,
    num_latent_frames: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Goes from one picture to another; default multipliers 0.2 and 0.5.

    Raises:
      ValueError: counts differ, or a clip of one latent frame has no end.
    """
    ends = (0, num_latent_frames - 1)
    return images_at([first, last], *_or_defaults(at, multipliers, ends, (0.2, 0.5)))


def loop(
    image: Image,
    num_latent_frames: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Starts and ends at the same picture; noise on the end keeps the clip from standing still."""
    return start_end(image, image, num_latent_frames, at, multipliers)


def interpolate(
    images: Any,
    num_latent_frames: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Passes through several key frames, evenly spread from the first to the last frame by default.

    Default multipliers: 0.2 for the first picture, 0.5 for the others, as for start-end.

    Raises:
      ValueError: fewer than two images, more than latent frames, or counts that differ.
    """
    if not hasattr(images, "__len__"):
        kind = type(images).__name__
        raise ValueError(f"interpolation needs a sequence of pictures, got one {kind}.")
    images = [as_picture(image) for image in images]
    if len(images) < 2:
        raise ValueError(f"interpolation needs at least 2 images, got {len(images)}.")
    spread = np.linspace(0, num_latent_frames - 1, len(images)).round().astype(int).tolist()
    defaults = (spread, [0.2] + [0.5] * (len(images) - 1))
    return images_at(images, *_or_defaults(at, multipliers, *defaults))


def _or_defaults(at, multipliers, default_at, default_multipliers):
    if at is None and len(set(default_at)) < len(default_at):
        raise ValueError(_too_short(len(default_at), max(default_at) + 1))
    return (
        default_at if at is None else at,
        default_multipliers if multipliers is None else multipliers,
    )


def _too_short(given: int, num_latent_frames: int) -> str:
    return (
        f"{given} given latent frames have no room in a clip of {num_latent_frames}; make it "
        "longer, or give fewer and say where."
    )


def complete(
    frames: Frames,
    num_latent_frames: int,
    stride: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Fills in what lies between the kept frames of a clip: by default its first and its last.

    Default multipliers: 0.3 for every kept frame.

    Raises:
      ValueError: see `video_at`, or a clip of one latent frame has no end.
    """
    ends = (0, num_latent_frames - 1)
    kept = [0.3] * len(ends if at is None else at)
    return video_at(frames, *_or_defaults(at, multipliers, ends, kept), stride)


def extend(
    frames: Frames,
    stride: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Continues a clip whose first frames are given: by default four latent frames.

    Default multipliers: 0, 0.3, 0.4, 0.5 for four frames, 0 for every one of another number.
    """
    at = EXTENSION if at is None else at
    if multipliers is None:
        multipliers = (0.0, 0.3, 0.4, 0.5) if len(at) == 4 else [0.0] * len(at)
    return video_at(frames, at, multipliers, stride)


def transition(
    first: Frames,
    second: Frames,
    num_latent_frames: int,
    stride: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Leads from the end of one clip into the beginning of another.

    By default the last nine frames of the first clip open the result and the first twelve of the
    second close it (three latent frames each, exact). The second clip is encoded behind one more
    copy of its first picture: the causal VAE then treats its frames as later frames of a clip,
    which they are here.

    Raises:
      ValueError: a clip or the result is too short, or places do not split into a beginning and an
        end.
    """
    opening, closing = _split_places(num_latent_frames, at)
    multipliers = [0.0] * (len(opening) + len(closing)) if multipliers is None else multipliers
    if len(opening) + len(closing) != len(multipliers):
        raise ValueError(
            f"numbers of positions and noise multipliers must agree, got "
            f"{len(opening) + len(closing)} and {len(multipliers)}."
        )
    multiplier = dict(zip(at or opening + closing, multipliers, strict=True))
    first, second = as_clip(first), as_clip(second)
    frames_needed = transition_frames(num_latent_frames, stride, at)
    for name, frames, needed in zip(
        ("first", "second"), (first, second), frames_needed, strict=True
    ):
        if len(frames) < needed:
            raise ValueError(f"the {name} video has {len(frames)} frames, {needed} are needed.")
    head, tail = frames_needed
    return [
        *video_at(first[-head:], opening, [multiplier[i] for i in opening], stride),
        Condition(
            frames=np.concatenate([second[:1], second[:tail]]),
            take=tuple(i - closing[0] + 1 for i in closing),
            at=closing,
            multipliers=tuple(multiplier[i] for i in closing),
        ),
    ]


def joined_transition(
    first: Frames,
    second: Frames,
    num_latent_frames: int,
    stride: int,
    at: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
) -> list[Condition]:
    """Leads from one clip into another as Pusa V0.5 does: both are encoded as one, cut included.

    The first half of that clip is the beginning of `first`, the rest the beginning of `second`;
    places are the same in it and in the result. By default three latent frames at either end.

    Raises:
      ValueError: see `transition`.
    """
    first, second = as_clip(first), as_clip(second)
    opening, closing = _split_places(num_latent_frames, at)
    head, tail = joined_frames(num_latent_frames, stride)
    for name, frames, needed in (("first", first, head), ("second", second, tail)):
        if len(frames) < needed:
            raise ValueError(f"the {name} video has {len(frames)} frames, {needed} are needed.")
    places = opening + closing if at is None else at
    multipliers = [0.0] * len(places) if multipliers is None else multipliers
    return video_at(np.concatenate([first[:head], second[:tail]]), places, multipliers, stride)


def joined_frames(num_latent_frames: int, stride: int) -> tuple[int, int]:
    """How many frames of the beginning of either clip a joined transition needs."""
    total = pixel_frames(num_latent_frames, stride)
    return total - total // 2, total // 2


def transition_frames(
    num_latent_frames: int, stride: int, at: Sequence[int] | None = None
) -> tuple[int, int]:
    """How many frames a transition needs: of the end of the first clip, of the start of the second.

    Raises:
      ValueError: places do not split into a beginning and an end.
    """
    opening, closing = _split_places(num_latent_frames, at)
    return pixel_frames(opening[-1] + 1, stride), stride * (num_latent_frames - closing[0])


def _split_places(f: int, at: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if at is None and f < 6:
        raise ValueError(_too_short(6, f))
    places = sorted((0, 1, 2, f - 3, f - 2, f - 1) if at is None else at)
    opening = tuple(i for i in places if 2 * i < f)
    closing = tuple(i for i in places if 2 * i >= f)
    if not opening or not closing:
        raise ValueError(f"a transition needs places in both halves of 0..{f - 1}, got {places}.")
    return opening, closing
