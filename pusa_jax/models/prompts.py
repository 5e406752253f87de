"""From prompts to text features, as T5 encoders need it: tokens, then zeros where there are none.

    prompt -> Tokenizer -> ids, mask [B, L] -> encode_prompt -> text [B, L, E]

How a prompt is cleaned before, and what an empty one means, differs between families.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pusa_jax.models.t5 import T5Encoder
from pusa_jax.progress import PusaWarning
from pusa_jax.typing import Text

PAD, EOS = 0, 1
"""Ids of the padding token and of the end-of-sequence token in every T5 vocabulary."""

SPECIAL = ("<pad>", "</s>", "<unk>")
"""Never cut into pieces, whether the file says so or not."""


class Tokenizer:
    """Prompts -> token ids of a fixed length, by the tokenizer in a folder."""

    def __init__(
        self,
        folder: Path,
        text_len: int,
        *,
        clean: Callable[[str], str],
        is_empty_masked: bool = False,
    ):
        """Reads the tokenizer; nothing is downloaded.

        Args:
          folder: holds `tokenizer.json`, as `google/umt5-xxl` of Wan's layout and `tokenizer` of
            the Diffusers layout do.
          text_len: length L that prompts are padded or cut to.
          clean: what is done to a prompt first.
          is_empty_masked: whether an empty prompt has no token at all, not even the last one.

        Raises:
          FileNotFoundError: there is no `tokenizer.json` in the folder.
          ValueError: the file is not a tokenizer, or not one with T5's special tokens.
        """
        # Imported here because only those who start from a prompt need it. The library below
        # transformers, whose own import takes longer than a clip of the tiny model.
        import tokenizers

        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            has_model = file.with_name("spiece.model").is_file()
            found = "only spiece.model" if has_model else "none"
            raise FileNotFoundError(
                f"expected tokenizer.json in {folder}, found {found}; "
                "copy it there from the model's page (it holds the same vocabulary)."
            )
        try:
            # Parity: the file is taken literally. The T5 class of transformers 5 keeps only its
            # vocabulary and character map, and rebuilds all other steps by its own rules.
            reader = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{file} is not a tokenizer file: {error}.") from error
        added = {token.content for token in reader.get_added_tokens_decoder().values()}
        reader.add_special_tokens([token for token in SPECIAL if token not in added])
        reader.no_padding()
        reader.enable_truncation(text_len)
        self._reader = reader
        self.text_len, self._clean, self._is_empty_masked = text_len, clean, is_empty_masked
        self.vocab_size = reader.get_vocab_size()
        ids = (reader.token_to_id("<pad>"), reader.token_to_id("</s>"))
        if ids != (PAD, EOS):
            raise ValueError(
                f"{file} is not a T5 tokenizer: expected ids {(PAD, EOS)} for <pad> and </s>, "
                f"got {ids}."
            )

    def __call__(self, prompts: list[str]) -> tuple[Int[np.ndarray, "B L"], Int[np.ndarray, "B L"]]:
        """Cleans and tokenizes prompts.

        Args:
          prompts: any text, also empty; what does not fit into L tokens is cut off, and a warning
            says so.

        Returns:
          ids and mask, int32 [B, L]: the prompt, then the end-of-sequence token, then padding; the
          mask is 1 up to and including the end-of-sequence token.
        """
        cleaned = [self._clean(prompt) for prompt in prompts]
        ids = np.full((len(cleaned), self.text_len), PAD, np.int32)
        mask = np.zeros_like(ids)
        around = self._reader.num_special_tokens_to_add(False)
        for row, encoded in enumerate(self._reader.encode_batch(cleaned)):
            if encoded.overflowing:
                pieces = (encoded, *encoded.overflowing)
                count = sum(len(piece.ids) - around for piece in pieces) + around
                warnings.warn(
                    f"the prompt {cleaned[row][:40]!r}... has {count} tokens, of which the model "
                    f"takes {self.text_len}; its end is cut off.",
                    PusaWarning,
                    stacklevel=2,
                )
            ids[row, : len(encoded.ids)] = encoded.ids
            mask[row, : len(encoded.ids)] = 1
        if self._is_empty_masked:
            has_words = np.asarray([[prompt != ""] for prompt in cleaned], np.int32)
            ids, mask = ids * has_words, mask * has_words
        return ids, mask


def encode_prompt(encoder: T5Encoder, ids: Int[Array, "B L"], mask: Int[Array, "B L"]) -> Text:
    """Text features of tokenized prompts, with zeros in the rows of the padding.

    Parity: Pusa's code zeroes the rows after the shortest prompt in all prompts of a batch; here
    each keeps its own length, which is what that code does for a single one, and Wan's for all.
    """
    features = encoder(ids, mask)
    return jnp.where(mask[..., None] == 0, jnp.zeros((), features.dtype), features)
