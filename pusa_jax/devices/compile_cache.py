"""Compiled programs that outlive the process, so that a second run compiles nothing.

jax takes what lies in its folder for what it needs, and never replaces it: a file that is damaged
is compiled around for ever, one that was exchanged runs as another program. So entries lie here
under a seal of their own, and what does not bear it is dropped, compiled again and replaced.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from jax._src import compilation_cache as internals
from jax._src.compilation_cache_interface import CacheInterface
from jax.experimental.compilation_cache import compilation_cache

from pusa_jax.files import temporary

ENDING = ".program"
"""Of the files of entries."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """JAX_COMPILATION_CACHE_DIR, or pusa_jax/compiled in the user's cache folder."""
    if folder := environment.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "pusa_jax" / "compiled"


class SealedPrograms(CacheInterface):
    """A folder of compiled programs, each behind a digest of its key and its bytes."""

    def __init__(self, folder: Path, on_damage: Callable[[Path], None]):
        """Takes a folder that is there; `on_damage` is told about each file that is dropped."""
        self._path, self._on_damage = folder, on_damage

    def get(self, key: str) -> bytes | None:
        """A program, or None if there is none that bears its seal."""
        file = self._file(key)
        try:
            whole = file.read_bytes()
        except OSError:
            return None
        seal, value = whole[: hashlib.sha256().digest_size], whole[hashlib.sha256().digest_size :]
        if seal == self._seal(key, value):
            return value
        with contextlib.suppress(OSError):
            file.unlink()
        self._on_damage(file)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program; where the folder cannot be written it is not kept."""
        file = self._file(key)
        with contextlib.suppress(OSError), temporary.claimed(file) as part:
            part.write_bytes(self._seal(key, value) + value)
            os.replace(part, file)

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{ENDING}"

    @staticmethod
    def _seal(key: str, value: bytes) -> bytes:
        return hashlib.sha256(key.encode() + b"\n" + value).digest()


def keep_compiled(
    folder: Path | None, on_damage: Callable[[Path], None] = lambda file: None
) -> None:
    """Keeps programs compiled from now on in a folder, and takes them from there; None: neither.

    Args:
      folder: made if it is not there.
      on_damage: told about each file that was no program any more.

    Raises:
      OSError: the folder cannot be made.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # jax has no public way to bring a cache of one's own: this function makes it, when first used.
    internals.get_file_cache = lambda path: (SealedPrograms(Path(path), on_damage), path)
    compilation_cache.reset_cache()  # or a folder used before would stay in use
