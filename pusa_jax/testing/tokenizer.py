"""A small tokenizer in the layout of google/umt5-xxl, for tests and for the demo checkpoint.

UMT5's tokenizer is a unigram model: of all ways to cut a text into pieces it takes the one with the
highest sum of scores. Here the pieces are a given list of words and all printable ASCII characters,
so that any English text can be written, if in more tokens than with the real vocabulary.
"""

import json
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ("<pad>", "</s>", "<unk>")
"""Ids 0, 1, 2, as in UMT5."""
SPACE = "▁"
"""Stands for a space, and opens every word."""

CHARACTERS = string.digits + string.ascii_letters + string.punctuation
WORD_SCORE, CHARACTER_SCORE = -1.0, -10.0
"""Log-probabilities: whole words win wherever they fit."""


def save_tiny_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json to `folder`.

    Args:
      folder: created where it does not exist.
      words: each becomes one token at the start of a word; order and repetitions do not matter.

    Returns:
      Size of the vocabulary: ids lie in [0, size).
    """
    characters = sorted({SPACE, *CHARACTERS})
    whole = sorted({SPACE + word for word in words} - set(characters))
    vocab = [
        *((token, 0.0) for token in SPECIAL),
        *((character, CHARACTER_SCORE) for character in characters),
        *((word, WORD_SCORE) for word in whole),
    ]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "special_tokens_map.json", special)
    _write(
        folder / "tokenizer_config.json",
        {**special, "tokenizer_class": "T5Tokenizer", "extra_ids": 0},
    )
    return tokenizer.get_vocab_size()


def _write(path: Path, content: Mapping[str, str | int]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
