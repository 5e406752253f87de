"""Seeds of 64 bit, as other tools draw them."""

import jax


def random_key(seed: int) -> jax.Array:
    """The key of a seed; below 2**32 that of `jax.random.key`, which drops the bits above.

    Args:
      seed: 0 to 2**64 - 1.
    """
    key, upper = jax.random.key(seed % 2**32), seed >> 32
    return jax.random.fold_in(key, upper) if upper else key
