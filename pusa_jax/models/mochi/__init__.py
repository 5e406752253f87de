"""Mochi-1: the asymmetric joint diffusion transformer, its causal autoencoder and their record."""
