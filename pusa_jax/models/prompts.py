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
        # Imported here because it takes a second, and only those who start from a prompt need it.
        from transformers import PreTrainedTokenizerFast

        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            has_model = file.with_name("spiece.model").is_file()
            found = "only spiece.model" if has_model else "none"
            raise FileNotFoundError(
                f"expected tokenizer.json in {folder}, found {found}; "
                "copy it there from the model's page (it holds the same vocabulary)."
            )
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        try:
            # Parity: the file is taken literally. The T5 class of transformers 5 keeps only its
            # vocabulary and character map, and rebuilds all other steps by its own rules.
            self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise ValueError(f"{file} is not a tokenizer file: {error}.") from error
        self.text_len, self._clean, self._is_empty_masked = text_len, clean, is_empty_masked
        self.vocab_size = len(self._tokenizer)
        ids = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id)
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
        for prompt, ids in zip(cleaned, self._tokenizer(cleaned)["input_ids"], strict=True):
            if len(ids) > self.text_len:
                warnings.warn(
                    f"the prompt {prompt[:40]!r}... has {len(ids)} tokens, of which the model "
                    f"takes {self.text_len}; its end is cut off.",
                    PusaWarning,
                    stacklevel=2,
                )
        encoded = self._tokenizer(
            cleaned,
            padding="max_length",
            truncation=True,
            max_length=self.text_len,
            return_tensors="np",
        )
        ids, mask = (encoded[name].astype(np.int32) for name in ("input_ids", "attention_mask"))
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
