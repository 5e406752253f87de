"""Results on disk: a name holds a whole file or none, and what cannot be written is told early."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pusa_jax.files import temporary


def check_writable(path: str | os.PathLike) -> None:
    """Makes sure, before hours of work, that a file of this name can be written. Leaves no trace.

    Raises:
      OSError: the name is a folder, or see `check_place`.
    """
    check_place(path)
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")


def check_place(path: str | os.PathLike) -> None:
    """Makes sure that something of this name, a file or a folder, can be made.

    Raises:
      OSError: its folder (or the nearest one that exists) takes no file, or not of so long a name.
    """
    path = Path(path)
    folder = path.absolute().parent
    names = [temporary.name_for(path).name]
    while not os.path.exists(folder) and folder != folder.parent:
        names.append(folder.name)
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder, so {path} cannot be written.")
    longest = max(names, key=lambda name: len(os.fsencode(name)))
    if len(os.fsencode(longest)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise OSError(f"the name {longest:.40}... is too long for {folder}; choose a shorter one.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or "no permission"
        raise PermissionError(
            f"cannot write to folder {folder} ({reason}); choose another output."
        ) from error


@contextlib.contextmanager
def replacing(path: Path, *, only_new: bool = False) -> Iterator[Path]:
    """Gives an empty file beside `path`, renamed at the end and removed if an error occurs.

    Missing folders are made; a file at `path` is replaced. What killed processes have left of the
    same file is removed.

    Args:
      path: of the result.
      only_new: whether a file that is at `path` at the end stays, which is an error then.

    Raises:
      OSError: see `check_writable`.
      FileExistsError: there is such a file, and it should be new.
    """
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.claimed(path) as made:
        yield made
        if only_new:
            _place_new(made, path)
        else:
            os.replace(made, path)


def _place_new(made: Path, path: Path) -> None:
    try:
        os.link(made, path)  # in one step with the question whether the name is free
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(made, path)
