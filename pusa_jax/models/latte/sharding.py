"""How the leaves of FVDM's networks are cut over a mesh: tables for `sharding.shardings`.

As for Wan: the layer axis is never cut, what makes heads or hidden channels is cut over `tensor` on
its outputs, what uses them up on its inputs. Modulations are the largest layers: they are cut over
all axes on their inputs.
"""

from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import FSDP, Rules

EVERY = (*FSDP, "tensor")
"""Axes over which a modulation is cut: it is larger than a layer, what comes of it is small."""

DIT: Rules = (
    (r"blocks/.*/[qkv]/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/.*/o/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/.*/mlp/up/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/.*/mlp/down/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/.*/modulation/linear/kernel$", P(None, EVERY, None)),
    (r"blocks/.*(/[qkv]|/up)/bias$", P(None, "tensor")),
    (r"blocks/.*/lora_a$", P(None, FSDP, None)),
    (r"blocks/.*/lora_b$", P(None, None, FSDP)),
    (r"time_embedding/(up|down)/kernel$", P(FSDP, None)),
    (r"head/modulation/linear/kernel$", P(FSDP, None)),
    (r"", P()),  # biases, tables, patch embedding, final layer, optimizer counters
)

VAE: Rules = ((r"", P()),)
