"""From a prompt to the text features the DiT attends to: cleaning, tokens, UMT5, zeroed padding.

    prompt -> clean_prompt -> Tokenizer -> ids, mask [B,L] -> encode_prompt -> text [B,L,E]

Wan's DiT has no text mask: it was trained on exactly L rows, zeros after the prompt, and attends to
all of them. Padding is therefore part of the input, not a matter of layout.
"""

import html
import re
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pusa_jax.models.t5 import T5Encoder
from pusa_jax.progress import PusaWarning
from pusa_jax.typing import Text

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，"
    "最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，"
    "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
"""Negative prompt of the Wan configurations, with full-width commas; cleaning makes them ASCII."""

PUSA_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, "
    "ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, "
    "disfigured, misshapen limbs, fused fingers, still picture, messy background, "
    "three legs, many people in the background, walking backwards"
)
"""Negative prompt of the Pusa V1.0 scripts: an English rendering of Wan's."""

PAD, EOS = 0, 1
"""Ids of the padding token and of the end-of-sequence token in every UMT5 vocabulary."""


def clean_prompt(prompt: str) -> str:
    """Repairs mis-decoded text, resolves HTML entities and collapses whitespace, as Wan does.

    The repair (ftfy with its defaults) also straightens quotes and narrows full-width letters and
    punctuation. Entities are resolved twice because scraped captions often hold `&amp;lt;` and the
    like. Nothing is lower-cased and no punctuation removed. An empty prompt stays empty.
    """
    import ftfy  # what only encodes does without

    repaired = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", repaired).strip()


class Tokenizer:
    """Prompts -> token ids of a fixed length, by the `google/umt5-xxl` tokenizer in a folder."""

    def __init__(self, folder: Path, text_len: int):
        """Reads the tokenizer; nothing is downloaded.

        Args:
          folder: holds `tokenizer.json`, as `google/umt5-xxl` of the original layout and
            `tokenizer` of the Diffusers layout do.
          text_len: length L that prompts are padded or cut to.

        Raises:
          FileNotFoundError: there is no `tokenizer.json` in the folder.
          ValueError: the file is not a tokenizer, or not one with UMT5's special tokens.
        """
        # Imported here because it takes a second, and only those who start from a prompt need it.
        from transformers import PreTrainedTokenizerFast

        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            has_model = file.with_name("spiece.model").is_file()
            found = "only spiece.model" if has_model else "none"
            raise FileNotFoundError(
                f"expected tokenizer.json in {folder}, found {found}; "
                "copy it there from google/umt5-xxl (it holds the same vocabulary)."
            )
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        try:
            # Parity: the file is taken literally. The T5 class of transformers 5 keeps only its
            # vocabulary and character map, and rebuilds all other steps by its own rules.
            self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise ValueError(f"{file} is not a tokenizer file: {error}.") from error
        self.text_len = text_len
        self.vocab_size = len(self._tokenizer)
        ids = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id)
        if ids != (PAD, EOS):
            raise ValueError(
                f"{file} is not a UMT5 tokenizer: expected ids {(PAD, EOS)} for <pad> and </s>, "
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
        cleaned = [clean_prompt(prompt) for prompt in prompts]
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
        return encoded["input_ids"].astype(np.int32), encoded["attention_mask"].astype(np.int32)


def encode_prompt(encoder: T5Encoder, ids: Int[Array, "B L"], mask: Int[Array, "B L"]) -> Text:
    """Text features of tokenized prompts, with zeros in the rows of the padding.

    Parity: Pusa's code zeroes the rows after the shortest prompt in all prompts of a batch; here
    each keeps its own length, which is what that code does for a single one, and Wan's for all.
    """
    features = encoder(ids, mask)
    return jnp.where(mask[..., None] == 0, jnp.zeros((), features.dtype), features)
