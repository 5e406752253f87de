"""The tiny model that comes along, by a name that means the same on every machine.

tiny                      its folder
tiny:pusa_lora.safetensors   a file in it
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

import pusa_jax

NAME = "tiny"

FOLDER = Path(pusa_jax.__file__).parent / "demo" / "weights"
"""In the published layout."""

PLACE = "pusa_jax/demo/weights"
"""The end of this folder's path on any machine; older videos hold the whole."""

SHOWN = 288
"""Pixels that the shorter side of its clips is at least enlarged to in files."""


def found(path: str | Path) -> str:
    """The path that a name stands for; any other path stays."""
    name, colon, file = str(path).partition(":")
    if name != NAME:
        return str(path)
    return str(FOLDER / file) if colon else str(FOLDER)


def named(path: str) -> str:
    """The name of a path in the packaged folder, of this machine or another; others stay."""
    before, place, behind = path.replace("\\", "/").partition(PLACE)
    if path == str(FOLDER) or (place and before.endswith("/") and not behind.strip("/")):
        return NAME
    if place and before.endswith("/") and behind.startswith("/"):
        return f"{NAME}:{behind[1:]}"
    return path


def enlarged(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Frames with every pixel repeated, so that people see something."""
    times = max(1, SHOWN // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)
