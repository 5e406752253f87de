"""Solvers of the flow: Euler for any noise table, UniPC and DPM++ where frames share one level.

`adams` has the one of second order for any table.

    rows  = solver.coefficients(sigmas)         on the host in float64, before the run
    state = solver.init(latents)
    state = solver.step(state, velocity, row)   for each row, inside lax.scan; see `state.latents`

If the network's guess of the clean latents, m = x - sigma * v, never changed, the flow would go
straight: x' = (s'/s) x + (1 - s'/s) m. Multistep solvers bend this line by a polynomial through the
guesses of earlier steps, in lambda = log((1 - sigma) / sigma). Every step is then a weighted sum of
what is remembered, and the weights are known before the run: one small matrix per step.

References: UniPC arXiv 2302.04867 (its B2(h) form), DPM-Solver++ arXiv 2211.01095 (multistep form).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pusa_jax.diffusion.flow import per_frame
from pusa_jax.typing import Latents

Levels = Float[np.ndarray, " steps_and_end"] | Float[np.ndarray, "steps_and_end F"]
"""Decreasing noise levels of a run, for the clip or for each latent frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver:
    """Three functions that make a solver.

    Attributes:
      coefficients: noise levels of the whole run -> rows, a pytree whose leaves have a first axis
        S. To cut a run, cut the rows and carry the state over.
      of_step_sizes: the same from step sizes [S, F], for a solver that goes by them along any
        table; and from [S] whether the velocity of a step is another function than that of the step
        before, or None. None is a solver that goes by levels.
      init: latents at the first level -> state.
      step: state, velocity predicted at `state.latents`, row -> state at the next level.
      is_random: whether a step adds noise; each row then has a leaf `noise`, None until a run fills
        it with fresh standard normal noise of the latents' shape.
    """

    coefficients: Callable[[Levels], Any]
    init: Callable[[Latents], Any]
    step: Callable[[Any, Latents, Any], Any]
    of_step_sizes: Callable[[np.ndarray, Sequence[bool] | None], Any] | None = None
    is_random: bool = False


class EulerState(NamedTuple):
    """The latents and nothing else."""

    latents: Latents


def euler_coefficients(sigmas: Levels) -> Float[np.ndarray, "S F"]:
    """Change of level per step and frame; F = 1 where all frames share their levels."""
    wide = np.asarray(sigmas, np.float64).reshape(len(sigmas), -1)
    return (wide[1:] - wide[:-1]).astype(np.float32)


def euler_step(state: EulerState, velocity: Latents, row: Float[Array, " f"]) -> EulerState:
    """Moves every frame by its own change of level: x + v * (s' - s)."""
    moved = state.latents + velocity * per_frame(row[None])
    return EulerState(latents=moved.astype(state.latents.dtype))


EULER = Solver(
    coefficients=euler_coefficients,
    of_step_sizes=lambda step_sizes, is_new: step_sizes,
    init=lambda x: EulerState(latents=x),
    step=euler_step,
)


class MultistepState(NamedTuple):
    """What a multistep solver remembers; float32.

    Attributes:
      latents: the sample the network sees next.
      corrected: the last sample after correction with the guess made at it (DPM++: as it was).
      clean: guesses of the clean latents, of the last step first.
    """

    latents: Latents
    corrected: Latents
    clean: Float[Array, "P B F H W C"]


class MultistepRows(NamedTuple):
    """The table of a multistep solver.

    Attributes:
      sigmas: level each step starts from.
      moves: whether a frame takes part; one that is clean throughout stays as it is.
      weights: the new `corrected` and `latents` as sums of latents, corrected, the new guess and
        the P remembered guesses.
    """

    sigmas: Float[Array | np.ndarray, "*S"]
    moves: Bool[Array | np.ndarray, "*S f"]
    weights: Float[Array | np.ndarray, "*S 2 terms"]


def multistep_step(state: MultistepState, velocity: Latents, row: MultistepRows) -> MultistepState:
    """One weighted sum per output, frame by frame; `row` is the table at one step."""
    guess = state.latents - row.sigmas * velocity.astype(jnp.float32)
    terms = (state.latents, state.corrected, guess, *state.clean)
    corrected, latents = (
        functools.reduce(jnp.add, map(jnp.multiply, weights, terms)) for weights in row.weights
    )
    moves = row.moves[None, :, None, None, None]  # [1, f, 1, 1, 1]
    latents = jnp.where(moves, latents, state.latents)
    clean = jnp.concatenate([guess[None], state.clean])[: len(state.clean)]
    return MultistepState(latents=latents, corrected=corrected, clean=clean)


def _multistep(weights: Callable[[np.ndarray], np.ndarray], remembered: int) -> Solver:
    """Solver from a function of float64 levels [S + 1] to weights [S, 2, 3 + remembered]."""

    def coefficients(sigmas: Levels) -> MultistepRows:
        shared, moves = _shared_levels(sigmas)
        return MultistepRows(
            sigmas=shared[:-1].astype(np.float32),
            moves=np.repeat(moves[None], len(shared) - 1, axis=0),
            weights=weights(shared).astype(np.float32),
        )

    def init(latents: Latents) -> MultistepState:
        x = latents.astype(jnp.float32)
        return MultistepState(latents=x, corrected=x, clean=jnp.zeros((remembered, *x.shape)))

    return Solver(coefficients=coefficients, init=init, step=multistep_step)


def _shared_levels(
    sigmas: Levels,
) -> tuple[Float[np.ndarray, " steps_and_end"], Bool[np.ndarray, " f"]]:
    """The levels of all frames that move, and which frames do: those not clean from the start."""
    wide = np.asarray(sigmas, np.float64).reshape(len(sigmas), -1)
    moves = np.asarray(wide.any(0))
    moves = moves if moves.any() else np.ones_like(moves)
    first = int(np.flatnonzero(moves)[0])
    odd = np.flatnonzero((wide != wide[:, first, None]).any(0) & moves)
    if odd.size:
        raise ValueError(
            "a multistep solver looks back along one noise level that all frames share, but frame "
            f"{odd[0]} has another than frame {first}: use the Euler solver for frames given with "
            "noise, or give them with a multiplier of 0."
        )
    levels = wide[:, first]
    if len(levels) < 2 or (np.diff(levels) >= 0).any() or levels[0] > 1 or levels[-1] < 0:
        raise ValueError(
            f"noise levels must fall from at most 1 to at least 0, got {levels.tolist()}."
        )
    return levels, moves


def _log_snr(sigmas: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log of (1 - sigma) / sigma: lambda, -inf for pure noise and inf for clean."""
    with np.errstate(divide="ignore"):
        return np.log1p(-sigmas) - np.log(sigmas)


LATENTS, CORRECTED, GUESS = range(3)
"""Columns of the weights; guess k steps back is in column GUESS + k."""


def unipc(order: int = 2) -> Solver:
    """UniPC with correction at every step, as Wan samples by default.

    Each step first corrects the sample the network has just seen, using its guess there, then
    predicts the next. Orders grow from 1 at the start and fall to 1 at the end, where the last step
    lands on the guess itself if the last level is 0.

    Args:
      order: of the predictor, 1 to 3; the corrector gains one more.

    Raises:
      ValueError: from this function for a bad order; from `coefficients` for levels that differ
        between frames, do not fall, or start at 1 (use `grids.unipc_table`).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"UniPC has orders 1, 2 and 3, got {order}.")

    def weights(sigmas: np.ndarray) -> np.ndarray:
        if sigmas[0] == 1:
            raise ValueError(
                "UniPC cannot start from level 1, whose log signal-to-noise ratio is infinite; "
                "start just below, as grids.unipc_table does."
            )
        num_steps = len(sigmas) - 1
        table = np.zeros((num_steps, 2, GUESS + 1 + order))
        last_order = 0
        for i in range(num_steps):
            corrected, latents = table[i]
            if i == 0:
                corrected[LATENTS] = 1
            else:
                corrected[CORRECTED] = sigmas[i] / sigmas[i - 1]
                nodes = [*range(i - 2, i - 1 - last_order, -1), i]
                for node, weight in _unipc_weights(sigmas, i - 1, i, nodes):
                    corrected[GUESS + i - node] += weight
            last_order = min(order, num_steps - i, i + 1)
            latents[:] = sigmas[i + 1] / sigmas[i] * corrected
            nodes = range(i - 1, i - last_order, -1)
            for node, weight in _unipc_weights(sigmas, i, i + 1, nodes):
                latents[GUESS + i - node] += weight
        return table

    return _multistep(weights, remembered=order)


def _unipc_weights(
    sigmas: Float[np.ndarray, " n"], start: int, end: int, nodes: Sequence[int]
) -> list[tuple[int, float]]:
    """Weights of the guesses at `start` and at `nodes` in an update from start to end.

    With r the way in lambda from `start`, as a part of h, the guess is m_start plus a polynomial
    sum_k rho_k (m_k - m_start) / r_k. The rho make it exact for guesses r^(j+1), j = 0 .. p - 1:
    sum_k r_k^j rho_k = moment_j (UniPC, arXiv 2302.04867, section 3, with B2(h) = expm1(-h)).
    """
    straight = 1 - sigmas[end] / sigmas[start]  # alpha' (1 - e^-h), as alpha + sigma = 1
    if not nodes:
        return [(start, straight)]
    snr = _log_snr(sigmas)
    h = snr[end] - snr[start]
    ratios = (snr[list(nodes)] - snr[start]) / h
    b_of_h = np.expm1(-h)
    moments, phi, factorial = [], b_of_h / -h - 1, 1
    for k in range(len(nodes)):  # integral of e^(s - h) (s / h)^(k + 1) over 0 .. h, / (1 - e^-h)
        moments.append(phi * factorial / b_of_h)
        factorial *= k + 2
        phi = phi / -h - 1 / factorial
    powers = np.vander(ratios, increasing=True).T  # [j, k]
    # Parity: with one node the original takes 1/2, the limit of the system for small h.
    rhos = np.linalg.solve(powers, moments) if len(nodes) > 1 else np.asarray([0.5])
    bends = straight * rhos / ratios
    return [(start, straight - bends.sum()), *zip(nodes, bends, strict=True)]


Variant = Literal["midpoint", "heun"]
"""Form of DPM++'s second-order step."""


def dpmpp(order: int = 2, variant: Variant = "midpoint") -> Solver:
    """DPM-Solver++ in multistep form, without noise, as Wan's `dpm++`.

    Args:
      order: 1 to 3; lower in the first steps, 1 in the last, and at most 2 in the last but one of
        runs shorter than 15 steps.
      variant: of the second-order step.

    Raises:
      ValueError: from this function for a bad order or variant; from `coefficients` for levels
        that differ between frames or do not fall.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"DPM++ has orders 1, 2 and 3, got {order}.")
    if variant not in get_args(Variant):
        raise ValueError(f"DPM++ has variants {' and '.join(get_args(Variant))}, got {variant!r}.")

    def weights(sigmas: np.ndarray) -> np.ndarray:
        num_steps = len(sigmas) - 1
        table = np.zeros((num_steps, 2, GUESS + order))
        table[:, 0, LATENTS] = 1
        for i in range(num_steps):
            left = num_steps - 1 - i
            allowed = 1 if left == 0 else 2 if left == 1 and num_steps < 15 else order
            latents = table[i, 1]
            latents[LATENTS] = sigmas[i + 1] / sigmas[i]
            guesses = _dpmpp_weights(sigmas[: i + 2], min(order, allowed, i + 1), variant)
            latents[GUESS : GUESS + len(guesses)] = guesses
        return table

    return _multistep(weights, remembered=order - 1)


def _dpmpp_weights(
    sigmas: Float[np.ndarray, " n"], order: int, variant: Variant
) -> Float[np.ndarray, " order"]:
    """Weights of the last guesses, newest first, in the step between the last two levels.

    The guess along lambda is m + D1 s / h, or with a third guess m + D1 s / h + D2 (s / h)^2 / 2,
    s from 0 to h (DPM-Solver++, arXiv 2211.01095, multistep form): `slope` is D1, `curve` D2.
    """
    straight = 1 - sigmas[-1] / sigmas[-2]
    newest, before, oldest = np.eye(3)
    if order == 1:
        return straight * newest[:1]
    alpha, gaps = 1 - sigmas[-1], np.diff(_log_snr(sigmas))[::-1]
    h = gaps[0]
    # Gaps from pure noise are infinite: the guess made there then has weight 0.
    slope = h / gaps[1] * (newest - before)
    if order == 2:
        bend = straight / 2 if variant == "midpoint" else alpha - straight / h
        return (straight * newest + bend * slope)[:2]
    older_slope = h / gaps[2] * (before - oldest)
    share = h / gaps[2] / (h / gaps[1] + h / gaps[2])
    curve = h / gaps[1] * share * (slope - older_slope)
    slope = slope + share * (slope - older_slope)
    # Parity: half of what a parabola through the three guesses would add, as in the original.
    bow = straight / h**2 - alpha / h + alpha / 2
    return straight * newest + (alpha - straight / h) * slope + bow * curve
