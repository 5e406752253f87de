"""Tokenizer and text encoder of a folder, for captions one by one."""

import jax
import numpy as np
from jaxtyping import Float

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.typing import Precision


class TextEncoder:
    """Captions -> text features."""

    def __init__(self, folder: ModelFolder, dtype: Precision):
        """Loads the weights, see `LoadedNetwork`."""
        network = LoadedNetwork(folder, "text_encoder", dtype)
        self.record, self.config = network.record, network.config
        self._encoder = network.module
        self._tokenizer = network.family.tokenizer(folder.tokenizer(), self.config.text_len)
        self._encode = jax.jit(network.family.encode_prompt)

    def __call__(self, caption: str) -> Float[np.ndarray, "n E"]:
        """Features of the tokens of a caption, end of sentence included, padding left out."""
        ids, mask = self._tokenizer([caption])
        return np.asarray(self._encode(self._encoder, ids, mask))[0, : int(mask.sum())]
