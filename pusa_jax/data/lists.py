"""Lists of clips: which media files there are, and their captions.

folder/metadata.csv      columns file_name,text (Pusa, DiffSynth) or video,prompt
folder/metadata.jsonl    one object with the same names in every line
folder/ or folder/train/ the media
"""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.files import fingerprints

LISTS = ("metadata.csv", "metadata.jsonl")
"""Names looked for in a folder, in this order."""

MEDIA_FOLDERS = ("", "train")
"""Where the files of a list may lie, seen from its folder."""

COLUMNS = (("file_name", "text"), ("video", "prompt"))
"""Names of the file and of its caption, in either convention."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One line of a list.

    Attributes:
      number: place in the list, from 0.
      name: file name as listed; identifies the clip.
      caption: as listed; empty where there is none.
      folder: where the list lies.
    """

    number: int
    name: str
    caption: str
    folder: Path

    def find(self, ending: str = "") -> Path:
        """The media file, or the file beside it whose name has this ending.

        Raises:
          ValueError: the line names no file, or has no caption.
          FileNotFoundError: there is no such file.
        """
        if not self.name:
            raise ValueError("names no file.")
        if not self.caption:
            raise ValueError("has no caption.")
        for below in MEDIA_FOLDERS:
            path = self.folder / below / (self.name + ending)
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"{self.name}{ending} is neither in {self.folder} nor in its folder train."
        )


def read_clips(src: Path) -> list[Clip]:
    """Reads a list of clips.

    Args:
      src: folder with `metadata.csv` or `metadata.jsonl`, or a file of either kind.

    Returns:
      all lines, also those that turn out to be unusable.

    Raises:
      FileNotFoundError: there is no such folder, or no list in it.
      ValueError: the list is empty, damaged, or names its columns otherwise.
    """
    if not src.exists():
        raise FileNotFoundError(f"{src} does not exist; a folder of clips is expected.")
    path = src
    if src.is_dir():
        found = [src / name for name in LISTS if (src / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{src} has no list of clips ({' or '.join(LISTS)}).")
        path = found[0]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file) if path.suffix == ".csv" else _objects(file))
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no list of clips: {error}.") from None
    if not lines:
        raise ValueError(f"{path} lists no clips.")
    names = next((pair for pair in COLUMNS if set(pair) <= lines[0].keys()), None)
    if names is None:
        expected = " or ".join(",".join(pair) for pair in COLUMNS)
        raise ValueError(f"{path} must have {expected}, got {','.join(map(str, lines[0]))}.")
    return [
        Clip(
            number=number,
            name=_text(line.get(names[0])),
            caption=_text(line.get(names[1])),
            folder=path.parent,
        )
        for number, line in enumerate(lines)
    ]


def _objects(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    for line in lines:
        if line.strip():
            value = json.loads(line)
            if not isinstance(value, dict):
                raise json.JSONDecodeError("a line is no object", line, 0)
            yield value


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def fingerprint(clips: Sequence[Clip]) -> str:
    """Tells lists apart by names and captions, in order."""
    return fingerprints.of_list((clip.name, clip.caption) for clip in clips)
