"""Array aliases and the axis letters used in every signature.

B batch, T pixel frames, F latent frames, H W height and width (of what the array is), C channels,
N tokens, L text length, E text width, D model width, K heads, P head dim, S solver steps, R rank.
"""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16"]

SourceRate = Literal["model", "keep"]
"""Whether clips are brought to the model's frame rate."""

Latents = Float[Array, "B F H W C"]
"""Normalised VAE codes, channels last, about unit variance."""

Sigmas = Float[Array, "B F"]
"""Noise level of each latent frame: 0 is clean, 1 is pure noise."""

Timesteps = Float[Array, "B levels"]
"""What a network is told, in its own units (Wan: 1000 * sigma), per latent frame or per clip."""

Video = Float[Array, "B T H W 3"]
"""RGB pixel frames in [-1, 1]."""

Text = Float[Array, "B L E"]
"""Text-encoder features; rows after the prompt's end are zero."""

Prediction = Float[Array, "B F H W predicted"]
"""What a network predicts in the latents' channels, and what else it says, in channels behind."""

Velocity = Callable[[Latents, Timesteps], Prediction]
"""dx/dsigma = noise - clean, predicted from noisy latents and the timesteps the network is told; of
variance-preserving diffusion the noise, and a variance in channels behind it."""

OnLatents = Callable[[int, Latents], None]
"""Given the number of steps done and the latents behind them."""
