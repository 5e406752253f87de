"""The list of a batch: one line for each video, with the fields of the command line.

jobs.jsonl     {"id": "cat", "task": "i2v", "image_paths": ["cat.png"], "prompt": "...", "seed": 3}
prompts.txt    a prompt on each line, for text to video
images/        cat.png beside cat.txt, which holds its prompt, for image to video
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.listing import listed

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of what a folder of images is looked through for."""

FORBIDDEN = re.compile(r"[^\w .,()\[\]+=@#%&'!-]|^\.|^$")
"""What an id must not have, as it names files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One video of a batch.

    Attributes:
      id: its name, of which there is one.
      fields: flags of the command line without dashes, and `task`.
      output: its file in the batch's folder.
      number: of the line it was read from, from 1.
    """

    id: str
    fields: dict[str, Any]
    output: str
    number: int


def read_jobs(path: Path) -> list[Line]:
    """Lines of a file of JSON objects; those without an id are called by their numbers.

    Raises:
      FileNotFoundError, ValueError: no such file, or the number of a line that is no job.
    """
    found = []
    for number, text in _texts(path):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {path} is no JSON: {error}.") from None
        if not isinstance(fields, dict):
            raise ValueError(f"line {number} of {path} is no object with fields: {text:.60}")
        name, output = fields.pop("id", None), fields.pop("output", None)
        name = f"{number:05d}" if name is None else str(name)
        output = f"{name}.mp4" if output is None else str(output)
        found.append(Line(id=name, fields=fields, output=output, number=number))
    return checked(found, path)


def read_prompts(path: Path) -> list[Line]:
    """A job of text to video for each line of a file; empty lines are left out.

    Raises:
      FileNotFoundError, ValueError: no such file, or nothing in it.
    """
    return checked(
        [
            Line(
                id=f"{number:05d}",
                fields={"task": "t2v", "prompt": text.strip()},
                output=f"{number:05d}.mp4",
                number=number,
            )
            for number, text in _texts(path)
        ],
        path,
    )


def read_images(folder: Path) -> list[Line]:
    """A job of image to video for each picture of a folder, with the prompt beside it.

    Raises:
      NotADirectoryError, ValueError: no such folder, no picture in it, or pictures without prompt.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder of images.")
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    if lacking := [
        p.with_suffix(".txt").name for p in pictures if not p.with_suffix(".txt").is_file()
    ]:
        raise ValueError(f"{folder} lacks the prompts of pictures: {listed(lacking, 20)}.")
    return checked(
        [
            Line(
                id=path.stem,
                fields={
                    "task": "i2v",
                    "image_paths": [str(path)],
                    "prompt": " ".join(path.with_suffix(".txt").read_text("utf-8").split()),
                },
                output=f"{path.stem}.mp4",
                number=number,
            )
            for number, path in enumerate(pictures, 1)
        ],
        folder,
    )


def checked(lines: Sequence[Line], source: Path) -> list[Line]:
    """The lines, if each has an id and an output of its own that can name a file.

    Raises:
      ValueError: there are none, or one of those is not so.
    """
    if not lines:
        raise ValueError(f"{source} lists no video.")
    for name in ("id", "output"):
        seen: dict[str, int] = {}
        for line in lines:
            value = getattr(line, name)
            if FORBIDDEN.search(value) or len(value.encode()) > 200:
                raise ValueError(
                    f"line {line.number} of {source}: the {name} names a file, so it must be of "
                    f"letters, digits and .,-_ and spaces; got {value!r:.60}."
                )
            if value in seen:
                raise ValueError(
                    f"lines {seen[value]} and {line.number} of {source} both have the {name} "
                    f"{value!r}; each needs one of its own."
                )
            seen[value] = line.number
    return list(lines)


def _texts(path: Path) -> Iterable[tuple[int, str]]:
    """(number, text) of every line with something on it."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give a file with a line for each video.") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no list {path}.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line
