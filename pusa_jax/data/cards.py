"""The card of a dataset: what was encoded with what. Reading it needs no package of datasets."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pusa_jax.data.shards import INFO
from pusa_jax.files import claims
from pusa_jax.files.records import rebuild

CARD = "metadata.json"
"""Name of the file."""

FORMAT = 1
"""Version of what the card says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What a dataset is.

    Attributes:
      clip_shape: [F, h, w, C] of the latents.
      text_shape: [L, E] of the features, padding included.
      pixels: pixel frames, height and width that the latents stand for.
      vae: configuration and fingerprint of the VAE; the fingerprint is empty if it is not known.
      text_encoder: the same of the text encoder.
      clips: fingerprint of the list of clips.
      clips_per_shard: lines of the list that a shard stands for.
      frame_rate: frames per second of the clips, and how they came to it; in words.
      layout: how videos in folders became clips, see `folders.FolderConfig`; empty of a list.
      classes: names of the classes whose numbers are the captions.
    """

    clip_shape: tuple[int, int, int, int]
    text_shape: tuple[int, int]
    pixels: tuple[int, int, int]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    clips: str
    clips_per_shard: int
    frame_rate: str = "as in the sources"
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    dtype: str = "bfloat16"
    format: int = FORMAT

    def __post_init__(self):
        claims.check_shape("clip_shape", self.clip_shape, 2, claims.CLIP_BYTES)
        claims.check_shape("text_shape", self.text_shape, 2, claims.TEXT_BYTES)
        claims.check_shape("pixels", self.pixels, 1, 2**62)

    def record(self) -> dict[str, Any]:
        """As it is read from JSON again."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def read_card(folder: Path) -> Card:
    """The card of a complete dataset.

    Raises:
      FileNotFoundError: there is no dataset.
      ValueError: it is not complete, was not written by pusa_jax, or by another version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no dataset {folder}; write one with pusa-jax encode.")
    if not (folder / INFO).is_file():
        raise ValueError(f"{folder} is no complete dataset (no {INFO}); run its encoding again.")
    try:
        record = json.loads((folder / CARD).read_text("utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, not {FORMAT}")
        return rebuild(Card, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} was not written by this version of pusa_jax ({error!r:.100}); encode again."
        ) from None
