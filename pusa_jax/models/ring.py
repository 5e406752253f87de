"""Ring attention: keys and values travel from device to device, partial softmaxes are merged.

A ring joins every `stride`-th device of a mesh axis. Its i-th device starts with block i of the
keys and sends what it holds to the next while it attends to it, so nobody holds more than two
blocks. Padding is at the end of all keys: a block holds a number of real keys, then padding. The
backward pass goes round once more, gradients of keys and values travelling with them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pusa_jax.models.blockwise import Keys, Queries, backward
from pusa_jax.models.kernels import attend, attend_in_part, backend_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    """Who passes what to whom.

    Attributes:
      axis: mesh axis the rings lie on.
      stride: places on that axis between neighbours of a ring; also the number of rings.
      size: devices in a ring.
      num_keys: real keys in all blocks of a ring together.
    """

    axis: str
    stride: int
    size: int
    num_keys: int

    def pass_on(self, *arrays):
        """What the previous device of the ring holds."""
        count = self.stride * self.size
        pairs = [(i, (i + self.stride) % count) for i in range(count)]
        return jax.lax.ppermute(arrays, self.axis, pairs)

    def keys_held(self, hop: int, block: int):
        """Real keys among the `block` keys that a device holds after so many hops."""
        origin = (jax.lax.axis_index(self.axis) // self.stride - hop) % self.size
        return jnp.clip(self.num_keys - origin * block, 0, block)

    def gather(self, x: Keys) -> Float[Array, "B all_keys K P"]:
        """The blocks of all devices of the ring, in order, without padding."""
        rings = [[i + j * self.stride for j in range(self.size)] for i in range(self.stride)]
        whole = jax.lax.all_gather(x, self.axis, axis_index_groups=rings, axis=1, tiled=True)
        return whole[:, : self.num_keys]


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
    block = key.shape[1]
    out, log_sum = attend_in_part(query, key, value, ring.keys_held(0, block))
    total = out.astype(jnp.float32)
    for hop in range(1, ring.size):
        key, value = ring.pass_on(key, value)
        part, part_log_sum = attend_in_part(query, key, value, ring.keys_held(hop, block))
        merged = jnp.logaddexp(log_sum, part_log_sum)
        total = total * jnp.exp(log_sum - merged) + part * jnp.exp(part_log_sum - merged)
        log_sum = merged
    return total.astype(query.dtype), log_sum


def _forward_rule(query, key, value, ring):
    out, log_sum = _forward(query, key, value, ring)
    return out, (query, key, value, out, log_sum)


def _backward_rule(ring, saved, cotangent):
    query, key, value, out, log_sum = saved
    block = key.shape[1]
    grad_query, grad_key, grad_value = (jnp.zeros(x.shape, jnp.float32) for x in saved[:3])
    for hop in range(ring.size):
        keys = ring.keys_held(hop, block)
        dq, dk, dv = backward(query, key, value, keys, out, log_sum, cotangent)
        grad_query += dq
        key, value, grad_key, grad_value = ring.pass_on(key, value, grad_key + dk, grad_value + dv)
    grads = (grad_query, grad_key, grad_value)
    return tuple(grad.astype(x.dtype) for grad, x in zip(grads, saved, strict=False))


_travelling.defvjp(_forward_rule, _backward_rule)
