"""What encoding a list of clips would do, by the heads of its files: nothing is made."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from pusa_jax.data import folders, lists
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
    """Looks through a list of clips or a folder of videos; files that seem short are decoded.

    Args:
      src: see `encode.source_of`.
      config: what clips are to be brought to.
      fps: rate that they are brought to; None leaves theirs.

    Raises:
      FileNotFoundError, ValueError: see `encode.source_of`.
    """
    if config.folders is None:
        seen = _look(lists.read_clips(src), config, fps)
    else:
        seen = folders.look(folders.found(src, config.folders), config.num_frames)
    unusable, rates = [], collections.Counter()
    for clip, rate in seen:
        if isinstance(rate, Exception):
            unusable.append((clip, str(rate)))
        else:
            rates[rate] += 1
    count = len(unusable) + sum(rates.values())
    return Survey(count=count, unusable=tuple(unusable), rates=dict(rates))


def _look(
    clips: Sequence[Clip], config: EncodeConfig, fps: float | None
) -> Iterator[tuple[Clip, float | Exception]]:
    for clip in clips:
        try:
            yield clip, _rate(clip.find(), config, fps)
        except (OSError, ValueError) as error:
            yield clip, error


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
