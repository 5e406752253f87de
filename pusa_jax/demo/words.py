"""What the tiny model knows, and whether a prompt or a picture is of it."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from pusa_jax.demo.judge import look
from pusa_jax.demo.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES

EXAMPLE = "a red circle moves right on black"

NOTE = (
    "the tiny model that comes along knows one world: a shape "
    f"({', '.join(SHAPES)}) of one colour ({', '.join(COLOURS)}) that moves "
    f"{', '.join(DIRECTIONS)}, and may bounce, on {', '.join(BACKGROUNDS)}; for anything else give "
    'real weights with --model (README, "With the real weights").'
)

_PROMPT = re.compile(
    rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) moves ({'|'.join(DIRECTIONS)})( and bounces)?"
    rf" on ({'|'.join(BACKGROUNDS)})"
)

NEAR, MOST = 56.0, 0.9
"""How far, of 255 per channel, a pixel may be from a mixture of two colours of the world, and the
share of pixels that must not be farther."""

LEAST_PART, MOST_PART = 0.02, 0.12
"""Of a picture, taken up by its shape; in the world it is from 0.041 to 0.058."""


def normalised(prompt: str) -> str:
    """A prompt as in training: small letters, single spaces, no full stop."""
    return " ".join(prompt.lower().split()).rstrip(". ")


def oddities(prompt: str, pictures: Sequence[UInt8[np.ndarray, "T H W 3"]]) -> Iterator[str]:
    """Yields a line for a prompt, and one for given pictures, that are not of the world."""
    if prompt and not _PROMPT.fullmatch(prompt):
        yield (
            f"{prompt[:80]!r} is not in the words that the tiny model was trained with, as in "
            f"{EXAMPLE!r}: the clip will show something else."
        )
    if not all(is_of_the_world(frames[0]) for frames in pictures):
        yield (
            "a given picture is not of the tiny model's world, one plain shape on a plain "
            "background: the clip will be noise."
        )


def is_of_the_world(picture: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether one plain shape of the world is seen on one of its backgrounds, and nothing else.

    Colours alone would let a grey picture pass, and noise that was made smaller is grey.
    """
    seen = look(picture)
    height, width, _ = picture.shape
    is_shape = LEAST_PART <= seen.area / (height * width) <= MOST_PART
    return seen.objects == 1 and bool(seen.colour) and is_shape and _is_of_two_colours(picture)


def _is_of_two_colours(picture: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether nearly all pixels are mixtures of one background and one colour of the world."""
    pixels = picture.reshape(-1, 3).astype(np.float32)
    shares = []
    for background in np.asarray(list(BACKGROUNDS.values()), np.float32):
        for colour in np.asarray(list(COLOURS.values()), np.float32):
            way = colour - background
            part = np.clip((pixels - background) @ way / (way @ way), 0, 1)
            off = np.abs(pixels - background - part[:, None] * way).max(axis=1)
            shares.append((off <= NEAR).mean())
    return bool(max(shares) >= MOST)
