"""Pusa in JAX: video diffusion with one timestep per latent frame."""

__version__ = "0.1.0"
