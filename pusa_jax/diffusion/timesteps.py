"""Training-time noise levels: the table they are drawn from and the weight of each level."""

import numpy as np
from jaxtyping import Float


def bell_weights(timesteps: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Loss weight of every entry of a training table, mean 1 and 0 at the pure-noise end.

    exp(-2 ((t - 500) / 1000)^2) less its minimum, normalised over the table (original:
    FlowMatchSchedulerPusa.set_timesteps with training=True).

    Args:
      timesteps: the whole table in units of 0..1000; its length takes the place of 1000.
    """
    count = np.float32(len(timesteps))
    bell = np.exp(-2 * ((timesteps.astype(np.float32) - count / 2) / count) ** 2)
    above = bell - bell.min()
    return (above * (count / above.sum())).astype(np.float32)
