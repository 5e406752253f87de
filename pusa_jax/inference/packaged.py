"""Names that mean the same on every machine, and the paths they stand for here.

tiny                         the model that comes along
tiny:pusa_lora.safetensors   a file in its folder
OWNER/NAME[@REVISION][/...]  a repository on the Hugging Face Hub, see `hub.names`
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

import pusa_jax
from pusa_jax.hub import opening
from pusa_jax.hub.names import parsed
from pusa_jax.hub.needed import Kind

NAME = "tiny"

FOLDER = Path(pusa_jax.__file__).parent / "demo" / "weights"
"""In the published layout."""

PLACE = "pusa_jax/demo/weights"
"""The end of this folder's path on any machine; older videos hold the whole."""

SHOWN = 288
"""Pixels that the shorter side of its clips is at least enlarged to in files."""


def found(path: str | Path, kind: Kind = "model") -> str:
    """The path that a name stands for, fetched if need be; any other path stays.

    Args:
      path: or name.
      kind: what is looked for on the Hub.

    Raises:
      OSError, ValueError: a name on the Hub that leads nowhere, in one line; see `hub.fetching`.
    """
    name, colon, file = str(path).partition(":")
    if name != NAME:
        return opening.found(str(path), kind)
    return str(FOLDER / file) if colon else str(FOLDER)


def here(path: str) -> str:
    """The path that one in a record stands for on this machine.

    A name without a commit is none: where the file was written it was a path.
    """
    path = named(path)
    name = parsed(path)
    return path if name is not None and not name.is_pinned else found(path)


def named(path: str) -> str:
    """The name of a path in the packaged folder, of this machine or another, or in the Hub's cache.

    Others stay.
    """
    before, place, behind = path.replace("\\", "/").partition(PLACE)
    if path == str(FOLDER) or (place and before.endswith("/") and not behind.strip("/")):
        return NAME
    if place and before.endswith("/") and behind.startswith("/"):
        return f"{NAME}:{behind[1:]}"
    return opening.named(path)


def enlarged(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Frames with every pixel repeated, so that people see something."""
    times = max(1, SHOWN // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)
