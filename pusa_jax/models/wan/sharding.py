"""How the leaves of Wan's networks are cut over a mesh: tables for `sharding.shardings`.

Leaves under `blocks/` have a leading layer axis, which is never cut: a layer is sliced off first
and gathered then. Projections that make heads or feed-forward channels are cut over `tensor` on
their outputs, those that use them up on their inputs. What is small stays whole.
"""

from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import FSDP, Rules

DIT: Rules = (
    (r"blocks/(self|cross)_attn/[qkv]/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/(self|cross)_attn/o/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/ffn/up/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/ffn/down/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/.*(/[qkv]|/up)/bias$", P(None, "tensor")),
    (r"blocks/.*/lora_a$", P(None, FSDP, None)),
    (r"blocks/.*/lora_b$", P(None, None, FSDP)),
    (r"(text|time)_embedding/(up|down)/kernel$", P(FSDP, None)),
    (r"time_projection/kernel$", P(FSDP, None)),
    (r"", P()),  # norms, modulation, remaining biases, patch embedding, head, optimizer counters
)

TEXT: Rules = (
    (r"token_embedding/embedding$", P(None, FSDP)),
    (r"blocks/attn/[qkv]/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/attn/o/kernel$", P(None, "tensor", FSDP)),
    (r"blocks/ffn/(gate|fc1)/kernel$", P(None, FSDP, "tensor")),
    (r"blocks/ffn/fc2/kernel$", P(None, "tensor", FSDP)),
    (r"", P()),  # norms and position tables
)

VAE: Rules = ((r"", P()),)
