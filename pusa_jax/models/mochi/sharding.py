"""How the leaves of Mochi's networks are cut over a mesh: tables for `sharding.shardings`.

As for Wan: the layer axis is never cut, what makes heads or hidden channels is cut over `tensor` on
its outputs, what uses them up on its inputs. Modulations are as large as everything else here.
"""

from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import FSDP, Rules

EVERY = (*FSDP, "tensor")
"""Axes over which a modulation is cut: it is as large as a layer, what comes of it is small."""

DIT: Rules = (
    (r"blocks/.*/[qkv]/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/.*/o/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/.*/mlp/(gate|up)/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/.*/mlp/down/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/.*/modulation/kernel$", P(None, EVERY, None)),
    (r"blocks/.*/lora_a$", P(None, FSDP, None)),
    (r"blocks/.*/lora_b$", P(None, None, FSDP)),
    (r"last/.*/([qkv]|gate|up)/kernel$", P(FSDP, "tensor")),
    (r"last/.*/(o|down)/kernel$", P("tensor", FSDP)),
    (r"last/.*/modulation/kernel$", P(EVERY, None)),
    (r"last/.*/lora_a$", P(FSDP, None)),
    (r"last/.*/lora_b$", P(None, FSDP)),
    (r"text_pool/[qkvo]/kernel$", P(FSDP, None)),
    (r"text_embedding/kernel$", P(FSDP, None)),
    (r"time_embedding/(up|down)/kernel$", P(FSDP, None)),
    (r"head/(shift|scale)/kernel$", P(FSDP, None)),
    (r"", P()),  # norms, biases, frequencies, patch embedding, final layer, optimizer counters
)

TEXT: Rules = (
    (r"token_embedding/embedding$", P(None, FSDP)),
    (r"blocks/attn/[qkv]/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/attn/o/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/ffn/(gate|fc1)/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/ffn/fc2/kernel$", P(None, "tensor", FSDP)),
    (r"", P()),  # norms and the table of positions
)

VAE: Rules = ((r"", P()),)
