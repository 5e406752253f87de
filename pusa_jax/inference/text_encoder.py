"""Tokenizer and text encoder of a folder."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from pusa_jax.convert.folders.converted import tokenizer_folder
from pusa_jax.inference.networks import Network
from pusa_jax.models.t5 import T5Encoder
from pusa_jax.models.wan.text import Tokenizer, encode_prompt
from pusa_jax.typing import Precision


class TextEncoder:
    """Tokenizer and text encoder of a folder."""

    def __init__(self, folder: Path, dtype: Precision):
        """Loads the weights, see `Network`."""
        network = Network(folder, "text_encoder", dtype)
        self.record, self.config = network.record, network.config
        self._encoder = network.module
        assert isinstance(self._encoder, T5Encoder)
        self._tokenizer = Tokenizer(tokenizer_folder(folder), self.config.text_len)
        self._encode = jax.jit(encode_prompt)

    def __call__(self, caption: str) -> Float[np.ndarray, "n E"]:
        """Features of the tokens of a caption, end of sentence included, padding left out."""
        ids, mask = self._tokenizer([caption])
        return np.asarray(self._encode(self._encoder, ids, mask))[0, : int(mask.sum())]
