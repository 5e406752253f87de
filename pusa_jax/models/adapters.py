"""Low-rank adapters to be trained: made from a model's shapes, laid around its linear layers.

An adapted layer computes base(x) + scale * (x @ lora_a) @ lora_b with scale = alpha / rank, as PEFT
does (whose A and B are lora_a and lora_b transposed). Adapters are a flat dictionary beside the
frozen leaves: `blocks/self_attn/q/lora_a` [n, I, R] and `.../lora_b` [n, R, O] belong to
`blocks/self_attn/q/kernel` [n, I, O]; a stack of layers has a stack of adapters. The model's own
file knows nothing of them.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from pusa_jax.listing import listed
from pusa_jax.models.lora import LoRA, LowRank, Target, check_finite, check_fit

Leaves = Mapping[str, jax.Array | np.ndarray]


DRAWN = ("kaiming", "gaussian")
"""What lora_a may be drawn from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Which layers get adapters, and which.

    Attributes:
      rank: number of directions R.
      alpha: the addition is scaled by alpha / rank. Pusa V1.0 trained with alpha = rank = 512.
      targets: regular expression on the whole path of a linear layer; a family's published ones
        are `Family.lora_targets`.
      init: of lora_a; "kaiming" is PEFT's default, uniform within 1 / sqrt(I); "gaussian" has
        standard deviation 1 / R. lora_b starts at zero. Or a LoRA file of this rank and of these
        layers, from which training goes on at strength 1, as it was trained: what its own alpha /
        rank and this alpha / rank differ by is multiplied into lora_b.
    """

    rank: int = 512
    alpha: float = 512.0
    targets: str
    init: str = "kaiming"

    def __post_init__(self):
        if self.init not in DRAWN and not {".", "/"} & {*self.init}:
            raise ValueError(
                f"init must be {' or '.join(DRAWN)} or a LoRA file, got {self.init!r:.80}."
            )
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}.")

    @property
    def file(self) -> str | None:
        """The LoRA file that training starts from, if it does."""
        return None if self.init in DRAWN else self.init

    @property
    def scale(self) -> float:
        """Factor of the low-rank product."""
        return self.alpha / self.rank


class AdaptedLinear(nnx.Module):
    """A linear layer, or a stack, with a low-rank addition; computes in the dtype of its base."""

    def __init__(self, base: nnx.Linear, lora_a: Array, lora_b: Array, scale: float):
        self.base, self.scale = base, scale
        self.lora_a, self.lora_b = nnx.Param(lora_a), nnx.Param(lora_b)

    def __call__(self, x: Float[Array, "*rest I"]) -> Float[Array, "*rest O"]:
        """Maps the last axis."""
        dtype = self.base.dtype or x.dtype
        a, b = (factor[...].astype(dtype) for factor in (self.lora_a, self.lora_b))
        return self.base(x) + (x.astype(dtype) @ a) @ b * self.scale


def adapted_layers(shapes: Mapping[str, jax.ShapeDtypeStruct], targets: str) -> list[str]:
    """Paths of the linear layers that `targets` names, sorted.

    Raises:
      ValueError: there are none; the message lists the layers of the model.
    """
    linears = sorted(p.removesuffix("/kernel") for p in shapes if p.endswith("/kernel"))
    chosen = [path for path in linears if re.fullmatch(targets, path)]
    if not chosen:
        raise ValueError(f"targets {targets!r} matches no layer; there are {listed(linears)}.")
    return chosen


def init_adapters(
    shapes: Mapping[str, jax.ShapeDtypeStruct], config: AdapterConfig, key: Key[Array, ""]
) -> dict[str, jax.Array]:
    """Fresh adapters in float32 that add nothing; those of a file are made by `from_lora`.

    Args:
      shapes: path -> shape of the leaves of the model.
      config: see there.
      key: of lora_a.

    Raises:
      ValueError: `config.targets` matches no layer.
    """
    layers = adapted_layers(shapes, config.targets)
    adapters = {}
    for path, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
        *stack, into, out = shapes[f"{path}/kernel"].shape
        shape = (*stack, into, config.rank)
        if config.init == "gaussian":
            a = jax.random.normal(layer_key, shape, jnp.float32) / config.rank
        else:
            bound = into**-0.5
            a = jax.random.uniform(layer_key, shape, jnp.float32, -bound, bound)
        adapters[f"{path}/lora_a"] = a
        adapters[f"{path}/lora_b"] = jnp.zeros((*stack, config.rank, out), jnp.float32)
    return adapters


def from_lora(
    lora: LoRA, shapes: Mapping[str, jax.ShapeDtypeStruct], config: AdapterConfig
) -> dict[str, np.ndarray]:
    """Adapters in float32 that add what a LoRA adds at strength 1.

    Args:
      lora: of a file.
      shapes: path -> shape of the leaves of the model.
      config: see there.

    Raises:
      ValueError: another rank than the config's, or other layers than its targets; says what to
        set.
    """
    check_fit(shapes, lora)
    check_finite(lora)
    stacks = {
        path: shapes[f"{path}/kernel"].shape for path in adapted_layers(shapes, config.targets)
    }
    wanted = {
        Target(path, layer)
        for path, shape in stacks.items()
        for layer in (range(shape[0]) if len(shape) == 3 else [None])
    }
    for odd, what, way in (
        (wanted - lora.modules.keys(), "lacks", "leave them out of adapter.targets"),
        (lora.modules.keys() - wanted, "has more than", "add them to adapter.targets"),
        (
            lora.differences.keys(),
            "holds full differences beside",
            "merge it into the weights first",
        ),
    ):
        if odd:
            raise ValueError(
                f"it {what} what the run trains: {listed(sorted(map(str, odd)), 3)}; {way}."
            )
    ranks = sorted({module.rank for module in lora.modules.values()})
    if ranks != [config.rank]:
        raise ValueError(
            f"it has rank {listed(ranks, 5)}, the run trains adapter.rank={config.rank}"
            + (f"; set adapter.rank={ranks[0]}." if len(ranks) == 1 else ", which must be one.")
        )
    adapters = {}
    for path, (*stack, into, out) in stacks.items():
        a = np.zeros((*stack, into, config.rank), np.float32)
        b = np.zeros((*stack, config.rank, out), np.float32)
        for layer in range(stack[0]) if stack else [None]:
            module = lora.modules[Target(path, layer)]
            own = 1.0 if module.alpha is None else module.alpha / module.rank
            at = ... if layer is None else layer
            a[at] = module.down.T
            b[at] = module.up.T.astype(np.float32) * np.float32(own / config.scale)
        adapters |= {f"{path}/lora_a": a, f"{path}/lora_b": b}
    return adapters


def attach(module: nnx.Module, adapters: Leaves, scale: float) -> None:
    """Puts adapters around the linear layers of a model they are named after, in place."""
    for path in adapter_layers(adapters):
        *parents, name = path.split("/")
        owner = module
        for part in parents:
            owner = getattr(owner, part)
        a, b = (jnp.asarray(adapters[f"{path}/{factor}"]) for factor in ("lora_a", "lora_b"))
        setattr(owner, name, AdaptedLinear(getattr(owner, name), a, b, scale))


def adapter_layers(adapters: Leaves) -> list[str]:
    """Paths of the layers that adapters belong to."""
    return [p.removesuffix("/lora_a") for p in adapters if p.endswith("/lora_a")]


def as_lora(adapters: Leaves, alpha: float) -> LoRA:
    """The adapters layer by layer, as files hold them."""
    modules = {}
    for path in adapter_layers(adapters):
        a, b = (np.asarray(adapters[f"{path}/{factor}"]) for factor in ("lora_a", "lora_b"))
        if a.ndim == 2:
            modules[Target(path)] = LowRank(a.T, b.T, alpha)
        else:
            for layer in range(a.shape[0]):
                modules[Target(path, layer)] = LowRank(a[layer].T, b[layer].T, alpha)
    return LoRA(modules)
