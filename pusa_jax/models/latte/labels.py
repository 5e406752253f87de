"""Prompts of a model of classes: the number of a class, or nothing."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pusa_jax.models.latte.config import DiTConfig

NO_CLASS = -1
"""What stands for an empty prompt until the denoiser's own label of no class is known."""

LARGEST = 256
"""Numbers up to this are exact in the bfloat16 that datasets are kept in."""


class Labels:
    """Prompts -> numbers of classes; takes the place of a tokenizer."""

    vocab_size = 0

    def __call__(self, prompts: list[str]) -> tuple[Int[np.ndarray, "B 1"], Int[np.ndarray, "B 1"]]:
        """Reads prompts; an empty one is `NO_CLASS`.

        Raises:
          ValueError: a prompt is no number.
        """
        numbers = [[number(prompt)] for prompt in prompts]
        ids = np.asarray(numbers, np.int32)
        return ids, np.ones_like(ids)


def number(prompt: str, largest: int = LARGEST) -> int:
    """The class that a prompt names; `NO_CLASS` if it is empty.

    Args:
      prompt: as people give it.
      largest: number of a class, for the message.

    Raises:
      ValueError: it is no number.
    """
    text = prompt.strip()
    if not text:
        return NO_CLASS
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= LARGEST):
        raise ValueError(
            f"the label must be the number of a class, 0 to {largest}, got {prompt!r:.60}."
        )
    return int(text)


def as_features(
    encoder: None, ids: Int[Array, "B 1"], mask: Int[Array, "B 1"]
) -> Float[Array, "B 1 1"]:
    """Numbers of classes in the place of text features."""
    return ids[..., None].astype(jnp.float32)


def check_label(config: DiTConfig, prompt: str) -> None:
    """Raises ValueError unless a prompt names one of the model's classes, or none."""
    label = number(prompt, max(config.num_classes - 1, 0))
    if label == NO_CLASS:
        return
    if not config.num_classes:
        raise ValueError(f"the model knows no classes, got label {label}; leave it out.")
    if label >= config.num_classes:
        raise ValueError(
            f"label {label} is outside the classes of the model: use 0 to {config.num_classes - 1}."
        )
