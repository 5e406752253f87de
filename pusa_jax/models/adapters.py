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
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from pusa_jax.listing import listed
from pusa_jax.models.lora import LoRA, LowRank, Target

Leaves = Mapping[str, jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Which layers get adapters, and which.

    Attributes:
      rank: number of directions R.
      alpha: the addition is scaled by alpha / rank. Pusa V1.0 trained with alpha = rank = 512.
      targets: regular expression on the whole path of a linear layer; a family's published ones
        are `Family.lora_targets`.
      init: of lora_a; "kaiming" is PEFT's default, uniform within 1 / sqrt(I); "gaussian" has
        standard deviation 1 / R. lora_b starts at zero.
    """

    rank: int = 512
    alpha: float = 512.0
    targets: str
    init: Literal["kaiming", "gaussian"] = "kaiming"

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}.")

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
    """Fresh adapters in float32 that add nothing.

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
        if config.init == "kaiming":
            bound = into**-0.5
            a = jax.random.uniform(layer_key, shape, jnp.float32, -bound, bound)
        else:
            a = jax.random.normal(layer_key, shape, jnp.float32) / config.rank
        adapters[f"{path}/lora_a"] = a
        adapters[f"{path}/lora_b"] = jnp.zeros((*stack, config.rank, out), jnp.float32)
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
