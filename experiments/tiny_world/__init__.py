"""A world of coloured shapes that move: clips with known truth, a measuring stick, tiny models."""
