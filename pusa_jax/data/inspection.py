"""What a dataset holds, for people: counts, shapes, captions, norms and a contact sheet."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from pusa_jax.data.encoded import EncodedClips, Example
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.media import video
from pusa_jax.media.pixels import to_uint8

Latents = Shaped[np.ndarray, "F h w C"]
Frames = UInt8[np.ndarray, "T H W 3"]

SHEET_WIDTH = 1600
"""Pixels; strips are shrunk to it."""

RMS_RANGE = (0.3, 3.0)
"""Root mean square of a clip's latents outside of which something is wrong; they are about 1."""

STILL = 0.02
"""Change from one latent frame to the next, as a part of their size, of what stands still."""


def colours(latents: Latents) -> Frames:
    """Latents as pictures of their own size, without a VAE: their main components as RGB.

    The three directions in which the channels vary most, found from this very clip, brightest
    first; colours therefore mean nothing across clips, edges and motion do.
    """
    cells = latents.astype(np.float32).reshape(-1, latents.shape[-1])
    cells = cells - cells.mean(0)
    _, directions = np.linalg.eigh(cells.T @ cells)
    values = cells @ directions[:, :-4:-1]
    scale = 2 * values.std(0) + 1e-6
    return to_uint8(np.clip(values / scale, -1, 1)).reshape(*latents.shape[:-1], 3)


def decoded_by(autoencoder: Autoencoder) -> Callable[[Latents], Frames]:
    """Latents as the pictures that an autoencoder makes of them."""

    def show(latents: Latents) -> Frames:
        return to_uint8(autoencoder.decode(latents[None].astype(np.float32))[0])

    return show


def contact_sheet(
    clips: list[Example], show: Callable[[Latents], Frames] = colours, frames: int = 6
) -> UInt8[np.ndarray, "H W 3"]:
    """A strip of frames per clip, one below the other.

    Args:
      clips: at least one.
      show: latents -> frames: `colours`, or `decoded_by` an autoencoder.
      frames: per strip.
    """
    strips = [video.frame_strip(show(clip.latents), frames) for clip in clips]
    height, width = strips[0].shape[:2]
    height = max(round(height * SHEET_WIDTH / width), 1)
    return np.concatenate([video.fit(strip, height, SHEET_WIDTH, "stretch") for strip in strips])


def measured(clips: EncodedClips, count: int) -> tuple[list[Example], dict[str, Any]]:
    """Evenly spread clips of a dataset, and what there is to say about it.

    Args:
      clips: the dataset.
      count: clips to read; all if there are not more.

    Returns:
      the clips, and plain values: number of clips, shapes, bytes, statistics of latents and
      captions of the clips read, and what is odd about some of them by name.

    Raises:
      ValueError: latents are not finite; names the first clip.
    """
    numbers = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int))
    read = [clips.example(int(number)) for number in numbers]
    latents = np.stack([example.latents for example in read]).astype(np.float32)
    if broken := [e.name for e, x in zip(read, latents, strict=True) if not np.isfinite(x).all()]:
        raise ValueError(
            f"{clips.folder} has {len(broken)} clips whose latents are not finite, first "
            f"{broken[0]!r:.80}; encode again."
        )
    is_captioned = not clips.card.layout or bool(clips.card.classes)
    norms = np.sqrt((latents**2).mean((1, 2, 3, 4)))
    odd = {
        example.name: "; ".join(why)
        for example, part, rms in zip(read, latents, norms, strict=True)
        if (why := list(_oddities(example, part, float(rms), is_captioned)))
    }
    lengths = [len(example.text) for example in read]
    card = clips.card
    return read, {
        "clips": len(clips),
        "pixels [T, H, W]": list(card.pixels),
        "frame rate": card.frame_rate,
        **({"layout": dict(card.layout)} if card.layout else {}),
        **({"classes": len(card.classes)} if card.classes else {}),
        "latents [F, h, w, C]": list(card.clip_shape),
        "text features [L, E]": list(card.text_shape),
        "gigabytes": _short(clips.num_bytes / 1e9),
        "vae fingerprint": card.vae["fingerprint"] or "not known",
        "clips read": len(read),
        "latents rms": {"min": _short(norms.min()), "max": _short(norms.max())},
        "latents mean by channel": [_short(x) for x in latents.mean((0, 1, 2, 3))],
        "latents std by channel": [_short(x) for x in latents.std((0, 1, 2, 3))],
        "caption tokens": {"min": min(lengths), "max": max(lengths)},
        "odd": odd,
        "captions": {example.name: example.caption for example in read},
    }


def _oddities(example: Example, latents: Latents, rms: float, is_captioned: bool) -> Iterator[str]:
    """Yields what is odd about a clip, in words."""
    low, high = RMS_RANGE
    if not low < rms < high:
        size = "large" if rms >= high else "small"
        yield f"its latents are {size}, rms {rms:.2f} where {low} to {high} is usual (about 1)"
    moved = np.sqrt((np.diff(latents[1:], axis=0) ** 2).mean()) if len(latents) > 2 else rms
    if moved < STILL * rms:
        yield "nothing moves: its latent frames are nearly the same"
    if is_captioned and not example.caption.strip():
        yield "it has no caption"


def _short(value: Any) -> float:
    return round(float(value), 3)
