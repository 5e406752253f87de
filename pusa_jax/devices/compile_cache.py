"""Compiled programs that outlive the process, so that a second run compiles nothing."""

from collections.abc import Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def cache_folder(environment: Mapping[str, str]) -> Path:
    """JAX_COMPILATION_CACHE_DIR, or pusa_jax/compiled in the user's cache folder."""
    if folder := environment.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "pusa_jax" / "compiled"


def keep_compiled(folder: Path | None) -> None:
    """Keeps programs compiled from now on in a folder, and takes them from there; None: neither.

    Raises:
      OSError: the folder cannot be made.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # or a folder used before would stay in use
