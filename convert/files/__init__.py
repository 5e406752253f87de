"""Checkpoint files of other programs, opened without running anything in them."""
