"""Wan2.1: DiT, causal VAE and UMT5 text encoder."""
