"""The list of VBench-I2V: prompts, their images and what each is judged by.

It is `vbench2_i2v_full_info.json` of github.com/Vchitect/VBench (folder vbench2_beta_i2v, commit
6149caf): 1,118 prompts on 355 images, 5 videos each. A prompt of camera motion is the caption of a
background image with ", camera pans left" or one of six other motions behind it.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.listing import listed
from pusa_jax.media.described import picture_in_words

SAMPLES = 5
"""Videos of a prompt."""

COUNTS: Mapping[str, int] = {"i2v_subject": 246, "i2v_background": 109, "camera_motion": 763}
"""Prompts of each kind in the published list."""

SUBSET = 50
"""Prompts of each kind in the subset: 750 videos, as many as Pusa's ablations have."""

RATIOS: Mapping[str, float] = {"1-1": 1.0, "8-5": 8 / 5, "7-4": 7 / 4, "16-9": 16 / 9}
"""Folder of cropped images -> width by height; VBench's word for it is --ratio."""

LONGEST_NAME = 255
"""Bytes of a file name that common file systems take."""

SOURCE = "vbench2_beta_i2v/vbench2_i2v_full_info.json of github.com/Vchitect/VBench"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """A row of the list.

    Attributes:
      text: what happens; also the beginning of the names of its videos.
      image: name of the file in the folder of a ratio.
      kind: a key of `COUNTS`.
    """

    text: str
    image: str
    kind: str

    def video(self, index: int) -> str:
        """The name that VBench looks for, of a video from 0 to 4."""
        return f"{self.text}-{index}.mp4"


def read_suite(path: Path) -> list[Prompt]:
    """Reads the list.

    Raises:
      FileNotFoundError, ValueError: one line; no such file, no JSON, or another version.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}; it is {SOURCE}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error!s:.80}); it is {SOURCE}.") from None
    prompts = [_prompt(path, number, row) for number, row in enumerate(_rows(path, rows), 1)]
    found = Counter(prompt.kind for prompt in prompts)
    if found != COUNTS:
        raise _other_version(path, f"{_in_words(found)} where {_in_words(COUNTS)} are expected")
    doubles = [text for text, n in Counter(p.text for p in prompts).items() if n > 1]
    if doubles:
        raise _other_version(path, f"a prompt is there twice: {listed(doubles, 3)}")
    long = [p.text for p in prompts if len(p.video(0).encode()) > LONGEST_NAME or "/" in p.text]
    if long:
        raise _other_version(path, f"a prompt that is no file name: {listed(long, 3)}")
    return prompts


def _rows(path: Path, rows: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _other_version(path, "it is no list of tables")
    lacking = [row.get("prompt_en", "?") for row in rows if "image_name" not in row]
    if lacking:
        raise _other_version(
            path, f"{len(lacking)} of {len(rows)} rows name no image, as {lacking[0]!r:.60}"
        )
    return rows


def _prompt(path: Path, number: int, row: Mapping[str, Any]) -> Prompt:
    text, image, dimension = (row.get(key) for key in ("prompt_en", "image_name", "dimension"))
    kinds = [kind for kind in COUNTS if isinstance(dimension, list) and kind in dimension]
    if not isinstance(text, str) or not isinstance(image, str) or len(kinds) != 1:
        raise _other_version(
            path, f"row {number} has no prompt_en, image_name and dimension of one kind"
        )
    return Prompt(text=text, image=image, kind=kinds[0])


def _other_version(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is another version of the list: {what}; take {SOURCE}.")


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts.get(kind, 0)} {kind}" for kind in COUNTS)


def subset(prompts: Iterable[Prompt], each: int = SUBSET) -> list[Prompt]:
    """As many prompts of each kind, evenly spread over the list.

    Pusa's ablations have 750 videos; that they are 50 prompts of each kind is read off the steps of
    their scores (0.4 %, a 250th), which 50 is not published.
    """
    prompts = list(prompts)
    kept: set[str] = set()
    for kind, count in COUNTS.items():
        texts = [prompt.text for prompt in prompts if prompt.kind == kind]
        kept |= {texts[i * count // each] for i in range(each)}
    return [prompt for prompt in prompts if prompt.text in kept]


def seed_of(root: int, prompt: Prompt, index: int) -> int:
    """The seed of one video: random, the same in every run, and of no other video.

    Args:
      root: of the whole run.
      prompt: of the video.
      index: 0 to 4.

    Returns:
      below 2**31.
    """
    digest = hashlib.sha256(f"{root}\n{prompt.video(index)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def nearest_ratio(height: int, width: int) -> str:
    """The ratio whose images fit a size best."""
    return min(RATIOS, key=lambda name: abs(RATIOS[name] - width / height))


def check_ratio(images: Path, height: int, width: int) -> str:
    """Makes sure that images were cropped for a size; returns the ratio.

    Raises:
      ValueError: the folder's name is another ratio, or the size is upright.
    """
    if width < height:
        raise ValueError(f"VBench-I2V has no upright images: {width}x{height}; exchange the sides.")
    nearest = nearest_ratio(height, width)
    if images.name in RATIOS and images.name != nearest:
        raise ValueError(
            f"{images} has images of {images.name}, but {width}x{height} is nearest to {nearest}: "
            f"give {images.parent / nearest}, or another size."
        )
    return nearest


def missing_images(prompts: Iterable[Prompt], folder: Path) -> list[str]:
    """The images of prompts that are not in a folder, each once."""
    names = dict.fromkeys(prompt.image for prompt in prompts)
    return [name for name in names if not (folder / name).is_file()]


def check_images(prompts: Sequence[Prompt], folder: Path) -> None:
    """Makes sure that the image of every prompt is there and is one.

    Raises:
      FileNotFoundError: images are missing; the first are named.
      ValueError: one cannot be opened.
    """
    names = list(dict.fromkeys(prompt.image for prompt in prompts))
    if missing := missing_images(prompts, folder):
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} images are not in {folder}: "
            f"{listed(missing, between='; ')}. crop.zip has them, which VBench's download_data.sh "
            "fetches."
        )
    for name in names:
        picture_in_words(folder / name)
