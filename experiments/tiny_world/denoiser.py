"""The tiny Wan DiT: its size, and the values it starts from.

A network that predicts noise - clean must first learn to hand its input through, because most of
that is noise. These start values do so at once: patches are embedded by a rotation and the head
undoes it, every residual branch ends in zeros and has its gate open.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.training.state import Params
from pusa_jax.weights.leaves import leaves_of

TEXT_LEN = 12
"""Tokens of a prompt: the longest caption has 9, and the end of the sentence."""

DIT = DiTConfig(
    dim=192,
    ffn_dim=576,
    num_heads=6,
    num_layers=4,
    text_dim=64,
    text_len=TEXT_LEN,
    freq_dim=64,
)

BRANCH_ENDS = ("blocks/self_attn/o", "blocks/cross_attn/o", "blocks/ffn/down")


def start_values(config: DiTConfig, key: Key[Array, ""]) -> Params:
    """Leaves to train from, float32."""
    draw_key, rotation_key = jax.random.split(key)
    leaves = jax.jit(lambda key: leaves_of(WanDiT(config, rngs=nnx.Rngs(key))))(draw_key)
    for name in BRANCH_ENDS:
        leaves[f"{name}/kernel"] = jnp.zeros_like(leaves[f"{name}/kernel"])
    # Shift, scale and gate of attention, then of the feed-forward network.
    gates = jnp.asarray([0, 0, 1, 0, 0, 1], jnp.float32).reshape(1, 6, 1)
    leaves["blocks/modulation"] = jnp.broadcast_to(gates, leaves["blocks/modulation"].shape)
    leaves["head/modulation"] = jnp.zeros_like(leaves["head/modulation"])
    leaves["time_embedding/down/kernel"] *= 0.2
    patch = leaves["patch_embedding/kernel"].shape[0]
    rotation = jnp.linalg.qr(jax.random.normal(rotation_key, (config.dim, patch)))[0].T
    leaves["patch_embedding/kernel"] = rotation
    # The norm in the head scales a token to variance 1; the embedding gave it patch / dim.
    leaves["head/linear/kernel"] = rotation.T * (patch / config.dim) ** 0.5
    return leaves
