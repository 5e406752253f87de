"""The tables of variance-preserving diffusion: 1000 linear betas, and fewer steps taken from them.

    x_t = sqrt(abar_t) * clean + sqrt(1 - abar_t) * noise,   abar_t = product of 1 - beta up to t

Everything is float64 and on the host. Users gather what they need by index and round it to float32,
as the original does (arXiv 2006.11239; FVDM's and Latte's gaussian_diffusion.py and respace.py).
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

TIMESTEPS = 1000
"""Steps of the process that networks are trained on, told 0 to 999."""

FIRST_BETA, LAST_BETA = 1e-4, 0.02


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearBetas:
    """The process, or some of its steps taken for a process of their own.

    Attributes:
      timesteps: which of the 1000 steps these are, rising; what the network is told of each.
      betas: share of the variance that each step replaces by noise.
    """

    timesteps: Int[np.ndarray, " N"]
    betas: Float[np.ndarray, " N"]

    @functools.cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, " N"]:
        """Share of the variance that is still the clean latents' after each step, abar."""
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def alphas_cumprod_prev(self) -> Float[np.ndarray, " N"]:
        """The same before each step; 1 before the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @functools.cached_property
    def posterior_variance(self) -> Float[np.ndarray, " N"]:
        """Variance of the step before, given the clean and the noised latents; 0 at index 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_mean_of_clean(self) -> Float[np.ndarray, " N"]:
        """Factor of the clean latents in the mean that goes with `posterior_variance`."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_mean_of_noised(self) -> Float[np.ndarray, " N"]:
        """Factor of the noised latents in that mean."""
        share = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas)
        return share / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_log_variance(self) -> Float[np.ndarray, " N"]:
        """Log of `posterior_variance`, with index 1 at index 0: the lower end of learned ranges."""
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @functools.cached_property
    def log_betas(self) -> Float[np.ndarray, " N"]:
        """The upper end of learned ranges."""
        return np.log(self.betas)


def linear_betas() -> LinearBetas:
    """The whole process: betas from 1e-4 to 0.02 in 1000 steps."""
    betas = np.linspace(FIRST_BETA, LAST_BETA, TIMESTEPS, dtype=np.float64)
    return LinearBetas(timesteps=np.arange(TIMESTEPS), betas=betas)


def respaced(spacing: str) -> LinearBetas:
    """Some of the 1000 steps; their betas are what lies between one and the next.

    Args:
      spacing: "50" for 50 steps from 0 to 999, both included; "30,20,10" for as many from each of
        three equal parts; "ddim50" for every 20th, from 0 on.

    Raises:
      ValueError: text of another form, fewer than 2 steps, more than a part has, or a whole stride
        that does not give as many.
    """
    chosen = np.asarray(_strided(spacing) if spacing.startswith("ddim") else _sections(spacing))
    if len(chosen) < 2:
        raise ValueError(f"the process needs at least 2 of its steps, got {spacing!r:.80}.")
    kept = linear_betas().alphas_cumprod[chosen]
    return LinearBetas(timesteps=chosen, betas=1 - kept / np.append(1.0, kept[:-1]))


def _number(text: str, spacing: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(
            f'a spacing of steps is written like "50", "30,20,10" or "ddim50", got {spacing!r:.80}.'
        )
    return int(text)


def _strided(spacing: str) -> list[int]:
    count = _number(spacing.removeprefix("ddim"), spacing)
    for stride in range(1, TIMESTEPS):
        steps = range(0, TIMESTEPS, stride)
        if len(steps) == count:
            return [*steps]
    raise ValueError(f"no whole stride takes {count} of {TIMESTEPS} steps, got {spacing!r:.80}.")


def _sections(spacing: str) -> list[int]:
    counts = [_number(text, spacing) for text in spacing.split(",")]
    size, longer = divmod(TIMESTEPS, len(counts))
    chosen, first = [], 0
    for part, count in enumerate(counts):
        length = size + (part < longer)
        if count > length:
            raise ValueError(f"{count} steps do not fit into {length}, got {spacing!r:.80}.")
        # Parity: positions are summed up in floats and rounded half to even (respace.py).
        stride, position = (length - 1) / max(count - 1, 1), 0.0
        for _ in range(count):
            chosen.append(first + round(position))
            position += stride
        first += length
    return chosen
