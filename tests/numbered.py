"""Pictures and clips whose every frame can be told from its pixels, also behind a video codec."""

from pathlib import Path

import numpy as np

from pusa_jax.diffusion.tasks import Condition
from pusa_jax.media import video

SIZE = 32


def frame(number: int) -> np.ndarray:
    """A picture that says a number below 256: sixteens in its left half, ones in its right half."""
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, : SIZE // 2], picture[:, SIZE // 2 :] = (16 * d + 8 for d in divmod(number, 16))
    return picture


def frames(numbers) -> np.ndarray:
    """A clip of such pictures."""
    return np.stack([frame(number) for number in numbers])


def numbers(clip: np.ndarray) -> list[int]:
    """What the frames of a clip say."""
    middle = clip[:, 8:-8].astype(float)
    left, right = middle[:, :, 4:12].mean((1, 2, 3)), middle[:, :, -12:-4].mean((1, 2, 3))
    return [int(a // 16) * 16 + int(b // 16) for a, b in zip(left, right, strict=True)]


def write_files(folder: Path) -> None:
    """Two pictures and a third (1, 2, 3), a clip of 0 .. 89 and a clip of 100 .. 129."""
    for number in (1, 2, 3):
        video.write_png(folder / f"{number}.png", frame(number))
    video.write_video(folder / "0-89.mp4", frames(range(90)), 16)
    video.write_video(folder / "100-129.mp4", frames(range(100, 130)), 16)


def told(conditions: list[Condition]) -> list[tuple]:
    """Conditions as (numbers of the frames, take, places, multipliers)."""
    return [(numbers(c.frames), c.take, tuple(c.at), tuple(c.multipliers)) for c in conditions]
