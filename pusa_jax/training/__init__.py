"""Learning: objective, what is trained, the loop, its data, checkpoints and records."""
