"""How far generated videos are from real ones, as the papers measure it."""
