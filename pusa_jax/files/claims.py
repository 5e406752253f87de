"""What data from elsewhere may claim: numbers are held against what is there before they are used.

A job inside a video, a card, a header may come from anybody. Each says how large things are that
are then allocated, looped over or waited for. The limits below are far above what anybody samples
or trains; whatever depends on a file is held against its size, what depends on a machine against
its memory.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

TEXT = 20_000
"""Characters of a prompt; tokens behind the first 512 are dropped in any case."""

SIDE, FRAMES = 2**14, 2**14
"""Pixels of height and width, and pictures of a clip."""

STEPS = 10_000
"""Solver steps."""

SCALE = 1000.0
"""Guidance, shift and strength of a LoRA, in either direction."""

CRF = 51
"""Coarsest constant rate factor of H.264 with 8 bits."""

INPUTS = 10_000
"""Files that a job is given."""

REPEATED = 4
"""How often the bytes of a file may be used by its tensors, as where layers share weights."""

SMALL = 2**26
"""Bytes that tensors may always have, however small their file."""

CLIP_BYTES, TEXT_BYTES = 2**34, 2**31
"""Latents and text features of one clip."""


def check_number(name: str, value: int | float, least: int | float, most: int | float) -> None:
    """Raises ValueError unless a number is in a range; infinite and undefined ones never are."""
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least:g} to {most:g}, got {value!r:.40}.")


def check_text(name: str, text: str) -> None:
    """Raises ValueError if a text is longer than anybody's prompt."""
    if len(text) > TEXT:
        raise ValueError(f"the {name} has {len(text)} characters; {TEXT} are the most.")


def check_video(frames: int, height: int, width: int) -> None:
    """Raises ValueError if a clip cannot be held as float32 in the memory of this machine."""
    check_number("the number of frames", frames, 1, FRAMES)
    for name, size in (("height", height), ("width", width)):
        check_number(name, size, 1, SIDE)
    needed, there = frames * height * width * 3 * 4, host_memory()
    if needed > there:
        raise ValueError(
            f"{frames} frames of {height}x{width} take {needed / 2**30:.1f} GiB, this machine has "
            f"{there / 2**30:.1f}; ask for fewer or smaller ones."
        )


def check_shape(name: str, shape: Sequence[int], itemsize: int, most: int) -> None:
    """Raises ValueError unless all sizes are above 0 and have at most so many bytes together."""
    if min(shape) < 1 or math.prod(shape) * itemsize > most:
        raise ValueError(
            f"{name} must be sizes above 0 of at most {most} bytes, got {list(shape)}."
        )


def check_tensors(path: Any, claimed: int) -> None:
    """Raises ValueError if tensors claim many times the bytes that their file has."""
    size = os.stat(path).st_size
    if claimed > max(REPEATED * size, SMALL):
        raise ValueError(
            f"{path} is refused: its tensors claim {claimed} bytes, the file has {size}."
        )


def host_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
