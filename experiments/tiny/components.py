"""Principal components of blocks of pixels: what the linear codecs of small studies are made of."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components:
    """Blocks -> channels of deviation 1, and back.

    Attributes:
      mean: of the blocks, [pixels of a block].
      components: one column per channel, orthonormal.
      deviation: of each channel.
    """

    mean: Float[np.ndarray, " P"]
    components: Float[np.ndarray, "P C"]
    deviation: Float[np.ndarray, " C"]

    def encode(self, blocks: Float[np.ndarray, "*axes P"]) -> Float[np.ndarray, "*axes C"]:
        """Channels of blocks."""
        return (blocks - self.mean) @ self.components / self.deviation

    def decode(self, codes: Float[np.ndarray, "*axes C"]) -> Float[np.ndarray, "*axes P"]:
        """The way back."""
        return (codes * self.deviation) @ self.components.T + self.mean


def principal(blocks: Float[np.ndarray, "*axes P"], channels: int) -> Components:
    """The largest components of some blocks."""
    rows = blocks.reshape(-1, blocks.shape[-1])
    mean = rows.mean(axis=0)
    variances, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    largest = slice(None, -channels - 1, -1)
    deviation = np.sqrt(variances[largest])
    return Components(mean=mean, components=vectors[:, largest], deviation=deviation)
