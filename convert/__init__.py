"""PyTorch checkpoints to pusa_jax trees and back; needs no torch."""
