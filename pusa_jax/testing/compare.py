"""Helpers for tests of pusa_jax and of code built on it: error measures and comparisons."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from pusa_jax.weights.leaves import fill, noise, shapes_in

Module = TypeVar("Module", bound=nnx.Module)


def random_module(build: Callable[[], Module], seed: int = 0) -> Module:
    """The module that `build` describes, all parameters random, drawn without compiling.

    No parameter is left at a constant, so that a swapped or forgotten one shows; see `noise`.
    """
    abstract = nnx.eval_shape(build)
    return fill(abstract, noise(shapes_in(abstract), seed))


def relative_error(actual: ArrayLike, expected: ArrayLike) -> float:
    """Returns ||actual - expected|| / ||expected|| over the whole array, computed in float64.

    Raises:
      ValueError: the shapes differ, or `actual` holds a value that is not finite.
    """
    a, b = np.asarray(actual).astype(np.float64), np.asarray(expected).astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: got {a.shape}, expected {b.shape}.")
    if not np.isfinite(a).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(a))} of {a.size} values are not finite.")
    scale = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / (scale if scale > 0 else 1.0))


def assert_close(
    actual: ArrayLike, expected: ArrayLike, limit: float, what: str = "array"
) -> float:
    """Asserts that the relative error is at most `limit` and returns it.

    Raises:
      AssertionError: with shape, relative error, largest difference and where it is.
    """
    error = relative_error(actual, expected)
    if error > limit:
        gap = np.abs(np.asarray(actual, np.float64) - np.asarray(expected, np.float64))
        worst = np.unravel_index(int(gap.argmax()), gap.shape)
        raise AssertionError(
            f"{what} {gap.shape}: relative error {error:.3g} exceeds {limit:.3g}; "
            f"largest difference {gap.max():.3g} at {tuple(int(i) for i in worst)}."
        )
    return error


def to_house_layout(latents_bcfhw: ArrayLike) -> jnp.ndarray:
    """[B, C, F, H, W] as PyTorch holds latents and videos -> [B, F, H, W, C]."""
    return jnp.moveaxis(jnp.asarray(latents_bcfhw), 1, -1)


def from_house_layout(latents_bfhwc: ArrayLike) -> jnp.ndarray:
    """[B, F, H, W, C] -> [B, C, F, H, W]."""
    return jnp.moveaxis(jnp.asarray(latents_bfhwc), -1, 1)
