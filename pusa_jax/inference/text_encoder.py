"""Tokenizer and text encoder of a folder, for captions one by one."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.typing import Precision

CLASSES: dict[str, Any] = {"config": {}, "fingerprint": "numbers of classes"}
"""What the card of a dataset says of captions that no encoder reads."""


class TextEncoder:
    """Captions -> text features.

    Attributes:
      record: what the card of a dataset says of the encoder.
      shape: [L, E] of features with their padding.
    """

    def __init__(self, folder: ModelFolder, dtype: Precision):
        """Loads the weights, see `LoadedNetwork`; there are none where captions name classes."""
        family = folder.family
        if family.reads_text:
            network = LoadedNetwork(folder, "text_encoder", dtype)
            self.record, self._encoder = network.record, network.module
            self.shape = network.config.text_len, network.config.dim
            tokens = folder.tokenizer()
        else:
            self.record, self._encoder, self.shape, tokens = CLASSES, None, (1, 1), None
        self._tokenizer = family.tokenizer(tokens, self.shape[0])
        self._encode = jax.jit(family.encode_prompt)

    def check(self, caption: str) -> None:
        """Raises ValueError for a caption that cannot be read, as one that is no number."""
        self._tokenizer([caption])

    def __call__(self, caption: str) -> Float[np.ndarray, "n E"]:
        """Features of the tokens of a caption, end of sentence included, padding left out."""
        ids, mask = self._tokenizer([caption])
        return np.asarray(self._encode(self._encoder, ids, mask))[0, : int(mask.sum())]
