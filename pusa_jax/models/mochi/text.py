"""What Mochi does to prompts before T5 v1.1: nothing, but an empty one has no token at all."""

from pathlib import Path

from pusa_jax.models.prompts import Tokenizer

NEGATIVE_PROMPT = ""
"""Of all published scripts: masked throughout, so that it has no influence."""


def tokenizer(folder: Path, text_len: int) -> Tokenizer:
    """The `google/t5-v1_1-xxl` tokenizer in a folder; see `Tokenizer`."""
    return Tokenizer(folder, text_len, clean=str, is_empty_masked=True)
