"""Attention: one entry, the kernels behind it, and how tokens are shared over devices."""
