"""The files of a job: where those of an earlier run are now, and what a new one is called."""

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pusa_jax.files import fingerprints
from pusa_jax.files.atomic import check_writable
from pusa_jax.media.outputs import check_ending

MOST_ALIKE = 64
"""Files of a folder that are looked into for one that is missing."""


def located(path: str, fingerprint: str, folders: Sequence[Path] = ()) -> str:
    """Where a file of an earlier run is now: at its path, or in one of the folders.

    In a folder it may have another name of the same ending: it is known by what is in it.

    Raises:
      ValueError: it is at none of these places, or has changed.
    """
    name = re.split(r"[/\\]", path)[-1]
    places = [Path(path), *(folder / part for folder in folders for part in (path, name))]
    there = list(dict.fromkeys(place for place in places if os.path.isfile(place)))
    for place in (*there, *_alike(name, folders)):
        if fingerprints.of_file(place) == fingerprint:
            return path if place == Path(path) else str(place)
    if there:
        raise ValueError(f"input {there[0]} has changed since the video was made.")
    other = "".join(f", nor in {folder.absolute()}" for folder in dict.fromkeys(folders))
    raise ValueError(f"input {path} is not there any more{other}; put it back to rerun.")


def _alike(name: str, folders: Iterable[Path]) -> list[Path]:
    """Files in folders with the ending of a name."""
    ending, found = Path(name).suffix, []
    for folder in dict.fromkeys(folders):
        files = sorted(folder.glob("*")) if ending else []
        found += [file for file in files if file.suffix == ending and file.is_file()][:MOST_ALIKE]
    return found


def check_output(output: str | Path, inputs: Sequence[str] = ()) -> None:
    """Makes sure, before any work, that the clip can be written and replaces no input.

    Raises:
      ValueError: its ending says no form, see `media.outputs`, or it is one of the inputs, also by
        another name.
      OSError: the folder cannot be written, or one for pictures is there already.
    """
    check_ending(str(output))
    if not Path(output).suffix and Path(output).exists():
        raise FileExistsError(f"{output} is there already; name a new folder.")
    check_writable(output)
    for path in inputs:
        is_there = os.path.exists(output) and os.path.exists(path)
        # Through a folder that is made only when the video is written a name leads there as well.
        is_same = os.path.realpath(output) == os.path.realpath(path)
        if is_same or (is_there and os.path.samefile(output, path)):
            raise ValueError(f"the output {output} is the input {path}; choose another name.")


def free_number(path: Path) -> int:
    """The first of 1, 2, ... whose `numbered` name is free."""
    return next(n for n in itertools.count(1) if not os.path.lexists(numbered(path, n)))


def numbered(path: Path, number: int) -> Path:
    """NAME.mp4 itself for 1, else NAME-2.mp4, NAME-3.mp4, ..."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def unused(path: str | Path) -> Path:
    """The name itself, or the first of its numbers that is free."""
    return numbered(Path(path), free_number(Path(path)))
