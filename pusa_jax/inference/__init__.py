"""Sampling: from folder, prompt and given frames to a video."""
