"""Models as flat dictionaries of leaves: `blocks/self_attn/q/kernel` -> array, and back.

Checkpoints, converters, LoRA and sharding rules speak of leaves by such paths; only this file knows
how a Flax module is taken apart and put together again.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

Module = TypeVar("Module", bound=nnx.Module)


def leaves_of(module: nnx.Module) -> dict[str, jax.Array]:
    """Path -> array (or shape, for an abstract module) of every parameter."""
    return {_slashed(path): leaf[...] for path, leaf in _parameters(module)}


def drawn(
    build: Callable[..., nnx.Module], config: Any, key: Key[Array, ""]
) -> dict[str, jax.Array]:
    """Path -> parameters as drawn from a key; to be compiled as one program.

    Args:
      build: configuration, rngs -> module.
      config: passed to it.
      key: what all of them are drawn from.
    """
    return leaves_of(build(config, rngs=nnx.Rngs(key)))


def noise(shapes: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> dict[str, jax.Array]:
    """Path -> random parameters of these shapes, drawn on the host: nothing is compiled.

    Weights have variance 1 / fan-in, scales lie around 1, biases around 0. Where a network is to
    be trained, its own initial values are better: `drawn`.
    """
    rng, leaves = np.random.default_rng(seed), {}
    for path, shape in shapes.items():
        value = rng.standard_normal(shape.shape, np.float32)
        match path.rsplit("/", 1)[-1]:
            case "scale":
                value = 1 + 0.2 * value
            case "bias":
                value = 0.1 * value
            case "embedding" | "modulation":
                value = 0.3 * value
            case _:
                stacked = path.startswith("blocks/")
                value = value / np.prod(shape.shape[stacked:-1]) ** 0.5
        leaves[path] = jnp.asarray(value, shape.dtype)
    return leaves


def shapes_of(build: Callable[[], nnx.Module]) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of the parameters that `build` would make, without making them."""
    return shapes_in(nnx.eval_shape(build))


def shapes_in(module: nnx.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of every parameter; of an abstract module as well."""
    return {
        _slashed(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in _parameters(module)
    }


@functools.cache
def abstract(build: Callable[..., nnx.Module], config: Hashable) -> Any:
    """The network of a configuration without values, made once and only to be read.

    Args:
      build: configuration, rngs -> module; the same function every time, not a new lambda.
      config: passed to it.
    """
    return nnx.eval_shape(lambda: build(config, rngs=_OneKey(jax.random.key(0))))


class _OneKey(nnx.Rngs):
    """Gives every parameter the same key; where none is drawn, making keys is half the time."""

    def __init__(self, key: Key[Array, "*n"]):
        self.key = nnx.data(key)

    def params(self) -> Key[Array, "*n"]:
        return self.key

    def split(self, splits: int) -> "_OneKey":
        return _OneKey(jnp.broadcast_to(self.key, splits))


def shapes_for(
    build: Callable[..., nnx.Module], config: Hashable
) -> dict[str, jax.ShapeDtypeStruct]:
    """`shapes_in` the network of a configuration, see `abstract`."""
    return shapes_in(abstract(build, config))


def assemble(build: Callable[[], Module], leaves: Mapping[str, jax.Array]) -> Module:
    """The module that `build` describes, holding the given leaves; nothing is initialised.

    Raises:
      ValueError: a path is missing or has no place, or a shape differs.
    """
    return fill(nnx.eval_shape(build), leaves)


def fill(shapes: Module, leaves: Mapping[str, jax.Array]) -> Module:
    """Like `assemble`, for a module of shapes that is there already (`nnx.eval_shape`)."""
    graphdef, parameters, rest = nnx.split(shapes, nnx.Param, ...)
    if nnx.to_flat_state(rest):
        raise ValueError(f"{type(shapes).__name__} holds state besides parameters.")
    flat = dict(nnx.to_flat_state(parameters))
    wanted = {_slashed(path): leaf.shape for path, leaf in flat.items()}
    given = {path: leaf.shape for path, leaf in leaves.items()}
    if wanted != given:
        odd = sorted(
            path for path in wanted.keys() | given.keys() if wanted.get(path) != given.get(path)
        )
        raise ValueError(
            f"{len(odd)} leaves do not fit; first: {odd[0]} is {given.get(odd[0], 'missing')}, "
            f"the model has {wanted.get(odd[0], 'no such leaf')}."
        )
    filled = {path: leaf.replace(leaves[_slashed(path)]) for path, leaf in flat.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _parameters(module):
    return nnx.to_flat_state(nnx.state(module, nnx.Param))


def _slashed(path: tuple) -> str:
    return "/".join(str(part) for part in path)
