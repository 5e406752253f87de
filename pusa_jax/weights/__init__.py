"""Weights as flat leaves: paths, storage, and reading them piece by piece to where they lie."""
