"""VBench-I2V: which videos it wants, and what its scores add up to."""
