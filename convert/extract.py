"""A LoRA out of two models: a low-rank approximation of what tuning has changed.

    W - W0  =  U S V^T  ~  (U_r sqrt S_r) (sqrt S_r V_r^T)     per linear layer, r largest of S

No other matrix of rank r is nearer to the difference (Eckart and Young 1936). The directions are
found by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): a whole decomposition
costs many times as much. Both models are read layer by layer, so the host holds a few layers of
them and the factors.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.models.adapters import adapted_layers
from pusa_jax.models.family import Name
from pusa_jax.models.lora import LoRA, LowRank, Target

Progress = Callable[[str, int, int], None]

OVERSAMPLING, ITERATIONS = 64, 6
"""Directions beyond the rank, and rounds of the iteration. The energy of a product is then within
1e-5 of the best where the n-th singular value falls like n^-0.7, and within 1 % for pure noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """A LoRA, and how much of the difference between the models it holds.

    Energy is the sum of squares of all entries of a difference.

    Attributes:
      lora: one adapter for every layer that differs.
      captured: share of the energy of these layers that is in the LoRA.
      least: the layer of which least is, and the share.
      left_out: share of the energy of all differences that lies in leaves without adapter.
      others: paths of those leaves.
    """

    lora: LoRA
    captured: float
    least: tuple[Target, float]
    left_out: float
    others: tuple[str, ...]


def extract_lora(
    tuned: ModelFolder,
    base: ModelFolder,
    rank: int,
    *,
    targets: str | None = None,
    expert: Name | None = None,
    dtype: DTypeLike = "bfloat16",
    on_progress: Progress = lambda stage, done, total: None,
) -> Extraction:
    """Finds the adapters that bring one DiT as near to another as their rank allows.

    Args:
      tuned: holds the model to come near to.
      base: holds the model to add to.
      rank: of the adapters.
      targets: regular expression on the paths of linear layers, as in training; default: those that
        published adapters of the family are laid around.
      expert: the denoiser, where both folders have several.
      dtype: of the factors.
      on_progress: told about the layers done.

    Raises:
      FileNotFoundError, ValueError: no DiT, two of other shapes or without difference, `targets`
        that match nothing, a rank that the layers cannot have, or values that are no numbers.
    """
    expert = _only_denoiser(tuned, base) if expert is None else expert
    shapes = _shapes_of_both(tuned, base, expert)
    targets = tuned.family.lora_targets if targets is None else targets
    adapted = [f"{path}/kernel" for path in adapted_layers(shapes, targets)]
    largest = min(min(shapes[path].shape[-2:]) for path in adapted)
    if not 1 <= rank <= largest:
        raise ValueError(f"rank must be 1 to {largest} for these layers, got {rank}.")
    layers = {
        path: range(shapes[path].shape[0]) if len(shapes[path].shape) == 3 else [None]
        for path in adapted
    }
    done, total = 0, sum(map(len, layers.values()))
    modules: dict[Target, LowRank] = {}
    energies: dict[Target, tuple[float, float]] = {}
    on_progress("extract", 0, total)
    for path in adapted:
        deltas = _differences(tuned, base, expert, path)
        if layers[path] == [None]:
            deltas = [np.stack(list(deltas))]
        for layer, delta in zip(layers[path], deltas, strict=True):
            target = Target(path.removesuffix("/kernel"), layer)
            down, up, kept, whole = low_rank(jnp.asarray(delta), rank)
            if not np.isfinite(float(whole)):
                raise ValueError(f"{target} holds values that are no numbers in one of the models.")
            if whole > 0:
                modules[target] = LowRank(
                    np.asarray(down).astype(dtype), np.asarray(up).astype(dtype)
                )
                energies[target] = float(kept), float(whole)
            done += 1
            on_progress("extract", done, total)
    if not modules:
        raise ValueError(
            f"{tuned.path} and {base.path} do not differ in the layers that targets name."
        )
    others = {path: _energy(tuned, base, expert, path) for path in shapes if path not in adapted}
    kept, whole = (sum(parts) for parts in zip(*energies.values(), strict=True))
    least = min(energies, key=lambda target: energies[target][0] / energies[target][1])
    rest = sum(others.values())
    return Extraction(
        lora=LoRA(modules),
        captured=kept / whole,
        least=(least, energies[least][0] / energies[least][1]),
        left_out=rest / (rest + whole),
        others=tuple(path for path, energy in others.items() if energy),
    )


def _only_denoiser(new: ModelFolder, old: ModelFolder) -> Name:
    """The denoiser that both folders have; raises ValueError if they have several."""
    both: list[Name] = [
        name for name in new.family.experts if name in new.names and name in old.names
    ]
    if len(both) > 1:
        raise ValueError(
            f"{new.path} and {old.path} have two experts each: say for which the LoRA is to be "
            "(--expert high or low)."
        )
    return both[0] if both else "dit"


def _shapes_of_both(
    new: ModelFolder, old: ModelFolder, expert: Name
) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of the leaves of both denoisers, which must be those of one model."""
    for folder in (new, old):
        folder.check([expert])
    shapes = new.shapes(expert), old.shapes(expert)
    for path in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = (each[path].shape if path in each else "missing" for each in shapes)
        if there != here:
            raise ValueError(
                f"{new.path} and {old.path} are models of other sizes: {path} is {there} in the "
                f"one and {here} in the other."
            )
    return shapes[0]


def _differences(
    new: ModelFolder, old: ModelFolder, expert: Name, path: str
) -> Iterator[np.ndarray]:
    """The difference of a leaf in float32, row by row: of a stack, layer by layer."""

    def rows(folder: ModelFolder) -> Iterator[np.ndarray]:
        for piece in folder.pieces(expert, path):
            yield from piece

    for a, b in zip(rows(new), rows(old), strict=True):
        yield np.asarray(a, np.float32) - np.asarray(b, np.float32)


def _energy(new: ModelFolder, old: ModelFolder, expert: Name, path: str) -> float:
    deltas = _differences(new, old, expert, path)
    return sum(float((delta**2).sum(dtype=np.float64)) for delta in deltas)


@functools.partial(jax.jit, static_argnames="rank")
def low_rank(
    delta: Float[Array, "I O"], rank: int
) -> tuple[Float[Array, "R I"], Float[Array, "O R"], Float[Array, ""], Float[Array, ""]]:
    """Approximates a matrix by one of low rank, (up @ down)^T.

    Returns:
      down and up factor, the energy of their product and that of the matrix.
    """
    product = functools.partial(jnp.matmul, precision="highest")
    columns = min(rank + OVERSAMPLING, *delta.shape)
    right = jax.random.normal(jax.random.key(0), (delta.shape[1], columns))
    for _ in range(ITERATIONS):
        left, _ = jnp.linalg.qr(product(delta, right))
        right, _ = jnp.linalg.qr(product(delta.T, left))
    left, _ = jnp.linalg.qr(product(delta, right))
    right, rest = jnp.linalg.qr(product(delta.T, left))  # delta ~ left @ rest^T @ right^T
    u, s, vt = jnp.linalg.svd(rest.T)
    root = jnp.sqrt(s[:rank])
    down = product(left, u[:, :rank]).T * root[:, None]
    up = product(right, vt[:rank].T) * root[None]
    return down, up, (s[:rank] ** 2).sum(), (delta**2).sum()
