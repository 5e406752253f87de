"""What Wan does to prompts before UMT5, and its negative prompts; the rest is `models.prompts`.

Wan's DiT has no text mask: it was trained on exactly L rows, zeros after the prompt, and attends to
all of them. Padding is therefore part of the input, not a matter of layout.
"""

import html
import re
from pathlib import Path

from pusa_jax.models.prompts import Tokenizer

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


def clean_prompt(prompt: str) -> str:
    """Repairs mis-decoded text, resolves HTML entities and collapses whitespace, as Wan does.

    The repair (ftfy with its defaults) also straightens quotes and narrows full-width letters and
    punctuation. Entities are resolved twice because scraped captions often hold `&amp;lt;` and the
    like. Nothing is lower-cased and no punctuation removed. An empty prompt stays empty.
    """
    import ftfy  # what only encodes does without

    repaired = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", repaired).strip()


def tokenizer(folder: Path, text_len: int) -> Tokenizer:
    """The `google/umt5-xxl` tokenizer in a folder, behind `clean_prompt`; see `Tokenizer`."""
    return Tokenizer(folder, text_len, clean=clean_prompt)
