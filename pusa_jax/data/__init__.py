"""Datasets of encoded clips: written once, inspected, read in batches."""
