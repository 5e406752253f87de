"""Networks of a folder, with what the card of a dataset says of them."""

import dataclasses
from typing import Any

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.networks import config_to_json
from pusa_jax.files import fingerprints
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.models.family import Name
from pusa_jax.typing import Precision
from pusa_jax.weights.leaves import abstract, fill


class LoadedNetwork:
    """A network of a folder with what a dataset's card says of it."""

    def __init__(self, folder: ModelFolder, name: Name, dtype: Precision):
        """Loads the weights, held and computed in `dtype`.

        Raises:
          FileNotFoundError, ValueError: one line saying what is missing or wrong.
        """
        stored, leaves = folder.load(name, dtype)
        self.family = folder.family
        self.config = dataclasses.replace(stored, param_dtype=dtype, compute_dtype=dtype)
        self.module = fill(abstract(self.family.networks[name].build, self.config), leaves)
        self.record = {
            "config": config_to_json(stored),
            "fingerprint": fingerprints.of_weights(leaves),
        }

    def autoencoder(self) -> Autoencoder:
        """The network as an autoencoder to be run."""
        return Autoencoder(self.module, self.family.codec, self.config)


def vae_record(folder: ModelFolder) -> dict[str, Any]:
    """Configuration and fingerprint of the VAE of a folder, as the card of a dataset holds them.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    return LoadedNetwork(folder, "vae", "float32").record
