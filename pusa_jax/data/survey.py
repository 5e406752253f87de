"""What encoding a list of clips would do, by the heads of its files: nothing is made."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pusa_jax.data import lists
from pusa_jax.data.encode import EncodeConfig
from pusa_jax.data.lists import Clip
from pusa_jax.media.pictures import PICTURES, open_image
from pusa_jax.media.video import length_and_rate, read_video


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What there is to encode.

    Attributes:
      count: clips in the list.
      unusable: those that cannot be encoded, with reasons.
      rates: frames per second as stored -> how many usable clips have them; 0 is a picture.
    """

    count: int
    unusable: Sequence[tuple[Clip, str]]
    rates: dict[float, int]


def survey(src: Path, config: EncodeConfig, fps: float | None) -> Survey:
    """Looks through a list of clips and opens its files; those that seem short are decoded.

    Args:
      src: see `lists.read_clips`.
      config: what clips are to be brought to.
      fps: rate that they are brought to; None leaves theirs.

    Raises:
      FileNotFoundError, ValueError: see `lists.read_clips`.
    """
    clips = lists.read_clips(src)
    unusable, rates = [], collections.Counter()
    for clip in clips:
        try:
            rates[_rate(clip.find(), config, fps)] += 1
        except (OSError, ValueError) as error:
            unusable.append((clip, str(error)))
    return Survey(count=len(clips), unusable=tuple(unusable), rates=dict(rates))


def _rate(path: Path, config: EncodeConfig, fps: float | None) -> float:
    if path.suffix.lower() in PICTURES:
        if config.num_frames > 1:
            raise ValueError(f"{path} is a picture, {config.num_frames} frames are needed.")
        with open_image(path):
            return 0.0
    seconds, rate = length_and_rate(path)
    if not rate:
        raise ValueError(f"{path} states no frame rate; re-encode it with one.")
    frames = seconds * (fps or rate)
    if frames < config.num_frames:  # the head of a file may be wrong; what is short is soon read
        read_video(path, config.num_frames, fps=fps)
    return round(rate, 2)
