"""Compiled programs kept between runs: the flag that all commands share, and what is said of it."""

import argparse
import os
import warnings
from pathlib import Path

from pusa_jax.cli.printing import one_line
from pusa_jax.progress import Console

FLAG = "no_compilation_cache"


def add_cache_flag(sub: argparse.ArgumentParser) -> None:
    """Adds the flag that leaves compiled programs nowhere."""
    sub.add_argument(
        f"--{FLAG}",
        action="store_true",
        help="do not keep compiled programs for later runs (JAX_COMPILATION_CACHE_DIR: where)",
    )


def keep_programs(console: Console) -> None:
    """Keeps what is compiled from now on; says so where a folder is made, or why it cannot be."""
    from pusa_jax.devices.compile_cache import cache_folder, keep_compiled

    damaged: list[Path] = []

    def on_damage(file: Path) -> None:
        if not damaged:
            console.line(f"{file} was damaged: what it held is compiled again and kept anew.")
        damaged.append(file)

    warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")
    folder = cache_folder(os.environ)
    is_new = not folder.is_dir()
    try:
        keep_compiled(folder, on_damage)
    except OSError as error:
        console.line(f"compiled programs are not kept: {one_line(error)}")
        return
    if is_new:
        console.line(f"compiled programs are kept in {folder} (--{FLAG}: they are not)")
