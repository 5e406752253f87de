"""Where an export may be written: a new place, or that of an earlier export if this is asked."""

from collections.abc import Iterable
from pathlib import Path

WEIGHTS = {".safetensors", ".pth", ".pt"}
BESIDE = {".json", ".md", ".model", ".txt"}
"""Endings of the files of an export; a folder that holds any other is none."""


def check_destination(
    dst: Path, *, overwrite: bool = False, sources: Iterable[str | Path] = ()
) -> None:
    """Makes sure that a folder or file may be made at `dst`.

    Args:
      dst: of the export.
      overwrite: whether an earlier export there may be replaced.
      sources: what is exported; never replaced.

    Raises:
      FileExistsError: something else is there, or an earlier export that is to stay.
      ValueError: it holds, or is, what is exported.
    """
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return
    what = "name" if dst.suffix else "folder"
    if not overwrite:
        raise FileExistsError(f"{dst} exists already; choose another {what}, or --overwrite.")
    here = dst.resolve()
    for source in map(Path, sources):
        if source.exists() and source.resolve().is_relative_to(here):
            raise ValueError(f"{dst} holds {source}, which is exported; choose another {what}.")
    files = [path for path in dst.rglob("*") if path.is_file()] if dst.is_dir() else [dst]
    endings = {path.suffix for path in files}
    if not endings & WEIGHTS or endings - WEIGHTS - BESIDE:
        raise FileExistsError(f"{dst} exists and is no export; choose another {what}.")
