"""Ring attention: keys and values travel from device to device, partial softmaxes are merged.

A ring joins every `stride`-th device of a mesh axis. Its i-th device starts with block i of the
keys and sends what it holds to the next while it attends to it, so nobody holds more than two
blocks. The backward pass goes round once more, gradients of keys and values travelling with them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pusa_jax.models.attention.blockwise import Keys, Queries, backward
from pusa_jax.models.attention.kernels import attend, attend_in_part, backend_for
from pusa_jax.models.remat import of_attention


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    """Who passes what to whom, and which tokens a block holds.

    Device j of the axis brought the tokens at places [j * places, (j + 1) * places) of every frame.
    A block is what `stride` devices side by side brought, one after the other, frame by frame.

    Attributes:
      axis: mesh axis the rings lie on.
      stride: distance on that axis between neighbours of a ring; also the number of rings.
      size: devices in a ring.
      places: tokens of a frame that one device brought.
      tokens: real tokens of a frame; those at later places are padding.
    """

    axis: str
    stride: int
    size: int
    places: int
    tokens: int

    def is_real(self, block: Int[Array, ""] | int, length: int) -> Any:
        """Which of the `length` tokens of a block are not padding: bool [M], NumPy for an int."""
        index = np.arange(length)
        device = block * self.stride + index // (length // self.stride)
        return device * self.places + index % self.places < self.tokens

    def pass_on(self, *arrays):
        """What the previous device of the ring holds."""
        count = self.stride * self.size
        pairs = [(i, (i + self.stride) % count) for i in range(count)]
        return jax.lax.ppermute(arrays, self.axis, pairs)

    def is_key(self, hop: int, length: int) -> Bool[Array, " M"]:
        """Which of the `length` keys that a device holds after so many hops are not padding."""
        return self.is_real(
            (jax.lax.axis_index(self.axis) // self.stride - hop) % self.size, length
        )

    def gather(self, x: Keys) -> Float[Array, "B real_keys K P"]:
        """The blocks of all devices of the ring, in order, without padding."""
        rings = [[i + j * self.stride for j in range(self.size)] for i in range(self.stride)]
        whole = jax.lax.all_gather(x, self.axis, axis_index_groups=rings, axis=1, tiled=True)
        real = [self.is_real(i, x.shape[1]) for i in range(self.size)]
        return whole[:, np.flatnonzero(np.concatenate(real))]


def ring_attention(query: Queries, key: Keys, value: Keys, ring: Ring) -> Queries:
    """Attention of a device's queries to the keys of all devices of its ring; inside shard_map.

    Where the kernel is cuDNN, which cannot merge exactly, keys and values are gathered instead.
    """
    if backend_for(query) == "cudnn":
        return attend(query, ring.gather(key), ring.gather(value))
    return _travelling(query, key, value, ring)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _travelling(query, key, value, ring):
    return _forward(query, key, value, ring)[0]


def _forward(query, key, value, ring):
    length = key.shape[1]
    out, log_sum = attend_in_part(query, key, value, ring.is_key(0, length))
    total = out.astype(jnp.float32)
    for hop in range(1, ring.size):
        key, value = ring.pass_on(key, value)
        part, part_log_sum = attend_in_part(query, key, value, ring.is_key(hop, length))
        merged = jnp.logaddexp(log_sum, part_log_sum)
        total = total * jnp.exp(log_sum - merged) + part * jnp.exp(part_log_sum - merged)
        log_sum = merged
    return total.astype(query.dtype), log_sum


def _forward_rule(query, key, value, ring):
    out, log_sum = of_attention(*_forward(query, key, value, ring))
    return out, (query, key, value, out, log_sum)


def _backward_rule(ring, saved, cotangent):
    query, key, value, out, log_sum = saved
    length = key.shape[1]
    grad_query, grad_key, grad_value = (jnp.zeros(x.shape, jnp.float32) for x in saved[:3])
    for hop in range(ring.size):
        is_key = ring.is_key(hop, length)
        dq, dk, dv = backward(query, key, value, is_key, out, log_sum, cotangent)
        grad_query += dq
        key, value, grad_key, grad_value = ring.pass_on(key, value, grad_key + dk, grad_value + dv)
    grads = (grad_query, grad_key, grad_value)
    return tuple(grad.astype(x.dtype) for grad, x in zip(grads, saved, strict=False))


_travelling.defvjp(_forward_rule, _backward_rule)
