"""Fingerprints: short names of files, weights, lists and latents, by which they are met again.

They lie in mp4s, in the cards of datasets and in checkpoints, so their bits must stay as they are:
another formula would make strangers of everything that was written before.

                       computed on   tells apart
    of_file            host          files, by every byte
    of_latents         host          latents, by every bit of their values; not by shape or dtype
    of_files           host          sets of files, by names, sizes, and every byte of small ones
    of_list            host          lists of clips, by every name and caption and their order
    of_weights         host          weights, by paths, shapes and a sample of values; not by dtype
    of_placed_weights  devices       weights, by every bit of their values; neither by paths and
                                     shapes alone nor by the order of values in a leaf
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

SAMPLED = 4096
"""Values of each leaf, at most, that `of_weights` is made of."""

WHOLE, END = 2**20, 2**16
"""Bytes of a file that `of_files` reads as a whole, and of each end of a larger one."""

SHORT = 16
"""Hexadecimal digits of the fingerprints that people read."""


def of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes: a copy under another name has the same one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_file_as_it_is(path: str | Path) -> str:
    """The same, computed once as long as the file stays as it is: size, time of change, inode."""
    status = os.stat(path)
    return _of_file(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=4096)
def _of_file(path: str, *status: int) -> str:
    return of_file(path)


def of_files(files: Iterable[Path], folder: Path) -> str:
    """Fingerprint of files below a folder, of which large ones are known by both their ends."""
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.relative_to(folder)}, {size}:".encode())
            if size <= WHOLE:
                digest.update(file.read())
                continue
            digest.update(file.read(END))
            file.seek(-END, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()[:SHORT]


def of_latents(latents: np.ndarray) -> str:
    """SHA-256 of an array's bytes, row by row: whether two runs agree to the last bit."""
    return hashlib.sha256(np.ascontiguousarray(latents).tobytes()).hexdigest()


def of_list(clips: Iterable[tuple[str, str]]) -> str:
    """Fingerprint of names and captions, in order; what the files hold is not looked at."""
    lines = [list(clip) for clip in clips]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:SHORT]


def of_weights(leaves: Mapping[str, jax.Array | np.ndarray]) -> str:
    """Fingerprint of weights on the host, whatever layout of files they were read from.

    Of each leaf it takes path, shape and evenly spaced values, in float32. Trained weights differ
    everywhere and are told apart; a change of single values may fall between those that are read.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        values = np.asarray(leaf).reshape(-1)
        step = -(-values.size // SAMPLED) or 1
        digest.update(f"{path}{leaf.shape}".encode())
        digest.update(values[::step].astype(np.float32).tobytes())
    return digest.hexdigest()[:SHORT]


def of_placed_weights(leaves: Mapping[str, jax.Array]) -> jax.Array:
    """Fingerprint of weights as they lie on devices, uint32; to be compiled.

    It sums all values' bits modulo 2**32, so that it is the same on every mesh, and folds the
    leaves' sums together in the order of their paths.
    """
    total = jnp.zeros((), jnp.uint32)
    for path in sorted(leaves):
        kind = jnp.uint16 if leaves[path].dtype.itemsize == 2 else jnp.uint32
        bits = jax.lax.bitcast_convert_type(leaves[path], kind).astype(jnp.uint32)
        total = total * jnp.uint32(31) + bits.sum(dtype=jnp.uint32)
    return total
