"""Low-rank adapters of linear layers, and merging them into the weights.

An adapter adds scale * up @ down to the weight (out, in) of a layer. How `scale` follows from the
strength a user asks for and from the `alpha` a file may carry, and where a merge in bfloat16
rounds, differs between the tools that train and load adapters: `MERGE_RULES` holds this as data.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pusa_jax.listing import listed
from pusa_jax.weights.finite import nonfinite


class Target(NamedTuple):
    """The layer an adapter belongs to: `blocks/self_attn/q` and its number in the stack."""

    path: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.path if self.layer is None else f"{self.path} of layer {self.layer}"


@dataclasses.dataclass(frozen=True)
class LowRank:
    """One adapter, in the (out, in) convention of its file.

    Attributes:
      down: called A as well.
      up: called B as well.
      alpha: strength the adapter was trained with times its rank; None where the file has none.
      name: of the down factor in its file.
      up_name: of the up factor.
    """

    down: Float[np.ndarray, "R I"]
    up: Float[np.ndarray, "O R"]
    alpha: float | None = None
    name: str = ""
    up_name: str = ""

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.down.shape[0]


@dataclasses.dataclass(frozen=True)
class Difference:
    """What a file adds to a leaf, or to one layer of it, as it is.

    Attributes:
      array: in the layout of the leaf.
      name: in its file.
    """

    array: np.ndarray
    name: str = ""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The adapters of one file.

    Attributes:
      modules: layer -> adapter.
      ignored: entries of the file that are not used -> reason.
      differences: leaf, with a layer if it is a stack -> what is added to it.
      remarks: what people should know before they merge it, a line each.
      file: where it comes from.
    """

    modules: Mapping[Target, LowRank]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    differences: Mapping[Target, Difference] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    file: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeRule:
    """How a tool merges.

    Attributes:
      scale: (strength, alpha, rank) -> factor of up @ down.
      rounds: what is rounded to the dtype of the weights before the sum, which always is: nothing,
        the scaled product, or everything (factors, product, scaled product).
      adds_differences: whether full differences are added, times the strength, or ignored.
    """

    scale: Callable[[float, float | None, int], float]
    rounds: Literal["nothing", "delta", "everything"]
    adds_differences: bool


MERGE_RULES: Mapping[str, MergeRule] = {
    # Pusa's load_lora: no division by the rank, alpha ignored (pusa-v1.md 4.2).
    "pusa": MergeRule(
        scale=lambda strength, alpha, rank: strength,
        rounds="everything",
        adds_differences=False,
    ),
    # DiffSynth, Diffusers, ComfyUI: alpha / rank where the file has an alpha, else 1.
    "file_alpha": MergeRule(
        scale=lambda strength, alpha, rank: strength * (1.0 if alpha is None else alpha / rank),
        rounds="nothing",
        adds_differences=True,
    ),
    # Pusa's load_lora_lightx2v: a file's alpha replaces the strength, which else stands in for it.
    "lightx2v": MergeRule(
        scale=lambda strength, alpha, rank: (strength if alpha is None else alpha) / rank,
        rounds="delta",
        adds_differences=False,
    ),
}
"""Name -> rule; in float32 they differ in `scale` only."""


def merge(
    leaves: Mapping[str, jax.Array | np.ndarray],
    lora: LoRA,
    strength: float = 1.0,
    rule: str = "file_alpha",
) -> dict[str, Any]:
    """Adds adapters to the kernels of a model; the given leaves stay as they are.

    Args:
      leaves: path -> array; stacked layers have their number as first axis.
      lora: adapters; every one must have its layer in the model.
      strength: 1 is as trained (Pusa's default is 1.4).
      rule: key of `MERGE_RULES`. The default takes alpha from the file if there is one and the
        plain strength if not; "pusa" rounds as the reference does in bfloat16.

    Returns:
      All leaves, with new arrays of the same dtype where an adapter was added.

    Raises:
      ValueError: unknown rule, or adapters without a layer of their shape in the model, or none.
    """
    if rule not in MERGE_RULES:
        raise ValueError(f"unknown merge rule {rule!r}; known: {', '.join(sorted(MERGE_RULES))}.")
    check_fit(leaves, lora)
    check_finite(lora)
    merged = dict(leaves)
    for path in dict.fromkeys(target.path for target in lora.modules):
        adapters = {t.layer: m for t, m in lora.modules.items() if t.path == path}
        merged[f"{path}/kernel"] = _add(leaves[f"{path}/kernel"], adapters, strength, rule)
    if MERGE_RULES[rule].adds_differences:
        for path in dict.fromkeys(target.path for target in lora.differences):
            added = {t.layer: d.array for t, d in lora.differences.items() if t.path == path}
            merged[path] = _add_differences(merged[path], added, strength)
    return merged


def merge_all(
    leaves: Mapping[str, jax.Array | np.ndarray], adapters: Iterable[tuple[LoRA, float, str]]
) -> dict[str, Any]:
    """Merges several adapters with their strengths and rules, in order; see `merge`."""
    merged = dict(leaves)
    for lora, strength, rule in adapters:
        merged = merge(merged, lora, strength, rule)
    return merged


def check_fit(leaves: Mapping[str, Any], lora: LoRA) -> None:
    """Makes sure that every adapter has its layer in a model; arrays or their shapes will do.

    Raises:
      ValueError: adapters without a layer of their shape in the model, or no adapters.
    """
    misfits = [problem for t, m in lora.modules.items() for problem in _misfits(leaves, t, m)]
    misfits += [
        problem for t, d in lora.differences.items() for problem in _odd(leaves, t, d.array.shape)
    ]
    count = len(lora.modules) + len(lora.differences)
    if misfits or not count:
        raise ValueError(
            f"{len(misfits)} of {count} LoRA modules do not fit the model: "
            f"{listed(misfits, 3, '; ') if misfits else 'there are none'}."
        )


def _odd(leaves: Mapping[str, Any], target: Target, shape: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with a difference of a leaf, or of a layer of it."""
    leaf = leaves.get(target.path)
    layers = 1 if leaf is None or target.layer is None else leaf.shape[0]
    if leaf is None or not 0 <= (target.layer or 0) < layers:
        yield f"the model has no {target}"
    elif (own := leaf.shape if target.layer is None else leaf.shape[1:]) != shape:
        yield f"{target} is {list(shape)} in the LoRA and {list(own)} in the model"


def check_finite(lora: LoRA) -> None:
    """Raises ValueError if a factor or a difference is not finite; reads all of them."""
    modules = lora.modules.values()
    arrays = [pair for m in modules for pair in ((m.name, m.down), (m.up_name, m.up))]
    arrays += [(each.name, each.array) for each in lora.differences.values()]
    for name, array in arrays:
        if count := nonfinite(array):
            where = f"{lora.file}: " if lora.file else ""
            raise ValueError(
                f"{where}{count} of {array.size} values of {name or 'a factor'} are NaN or "
                "infinite; fetch the file again, or make it again."
            )


def _misfits(leaves: Mapping[str, Any], target: Target, module: LowRank) -> Iterator[str]:
    kernel = leaves.get(f"{target.path}/kernel")
    if kernel is None:
        yield f"the model has no {target.path}"
        return
    rank = 2 if target.layer is None else 3
    if len(kernel.shape) != rank or not 0 <= (target.layer or 0) < (
        1 if rank == 2 else kernel.shape[0]
    ):
        yield f"the model has no {target}"
        return
    shape = (module.down.shape[1], module.up.shape[0])
    if kernel.shape[-2:] != shape:
        (i, o), (ours_i, ours_o) = shape, kernel.shape[-2:]
        yield f"{target} is {o}x{i} in the LoRA and {ours_o}x{ours_i} in the model"


def _add(
    kernel: jax.Array | np.ndarray,
    adapters: Mapping[int | None, LowRank],
    strength: float,
    rule: str,
) -> jax.Array:
    """One stack of kernels [n, I, O], or one kernel [I, O], with its adapters added."""
    stack = kernel if kernel.ndim == 3 else kernel[None]
    layers, into, out = stack.shape
    rank = max(module.rank for module in adapters.values())
    # Adapters of lower rank, and layers without one, are filled up with zeros, which add nothing.
    down = np.zeros((layers, rank, into), np.float32)
    up = np.zeros((layers, out, rank), np.float32)
    scale = np.zeros(layers, np.float32)
    for layer, module in adapters.items():
        down[layer or 0, : module.rank] = module.down
        up[layer or 0, :, : module.rank] = module.up
        scale[layer or 0] = MERGE_RULES[rule].scale(strength, module.alpha, module.rank)
    merged = _added(stack, down, up, scale, MERGE_RULES[rule].rounds)
    return merged if kernel.ndim == 3 else merged[0]


@functools.partial(jax.jit, static_argnums=4)  # kernels of one shape share a program
def _added(
    stack: jax.Array, down: jax.Array, up: jax.Array, scale: jax.Array, rounds: str
) -> jax.Array:
    """Kernels [n, I, O] with scale * up @ down added, layer by layer."""

    def add_layer(layer: tuple[jax.Array, ...]) -> jax.Array:
        kernel, down, up, scale = layer
        early = kernel.dtype if rounds == "everything" else jnp.float32
        down, up = _rounded(down, early), _rounded(up, early)
        product = jnp.einsum("ri,or->io", down, up, precision="highest")
        late = jnp.float32 if rounds == "nothing" else kernel.dtype
        delta = _rounded(scale * _rounded(product, early), late)
        return (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)

    return jax.lax.map(add_layer, (stack, down, up, scale))


def _add_differences(
    leaf: jax.Array | np.ndarray, added: Mapping[int | None, np.ndarray], strength: float
) -> jax.Array:
    """A leaf, or a stack of them, with differences added."""
    delta = np.zeros(leaf.shape, np.float32)
    for layer, array in added.items():
        delta[... if layer is None else layer] = array.astype(np.float32)
    leaf = jnp.asarray(leaf)
    return (leaf.astype(jnp.float32) + np.float32(strength) * delta).astype(leaf.dtype)


def _rounded(x: Float[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
    """Rounds float32 values to the grid of `dtype`; a cast there and back may be optimised away."""
    grid = jnp.finfo(dtype)
    return x if grid.bits >= 32 else jax.lax.reduce_precision(x, grid.nexp, grid.nmant)


def rank_stabilised(alpha: float, rank: int) -> float:
    """The alpha that gives alpha / sqrt(rank), the scale of rank-stabilised adapters (rsLoRA)."""
    return alpha * math.sqrt(rank)


def stored_dtype(lora: LoRA) -> np.dtype:
    """What factors are written in once alpha / rank is in them: no less than bfloat16.

    float16 stays where nothing is multiplied in, because a product may leave its narrow range.
    """
    kinds = {np.dtype(x.dtype) for m in lora.modules.values() for x in (m.down, m.up)}
    wide = {kind for kind in kinds if kind.itemsize > 1} or {np.dtype(jnp.bfloat16)}
    is_scaled = any(m.alpha not in (None, m.rank) for m in lora.modules.values())
    if wide == {np.dtype(jnp.bfloat16)} or (wide == {np.dtype(np.float16)} and not is_scaled):
        return wide.pop()
    return np.dtype(np.float32)
