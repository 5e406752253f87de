"""Pusa on Wan2.1-T2V-1.3B: the recipe of pusa_v1_lora_14b on a base that one small GPU holds.

    pusa-jax train --config=configs/pusa_lora_1.3b.py --workdir=runs/pusa_1.3b \
        --config.model.weights=Wan2.1-T2V-1.3B --config.data.folder=clips

Difference to pusa_v1_lora_14b: the base, and adapters of rank 256 (of at most 1536 directions). The
original publishes no 1.3B model, so there is no number to compare with.
"""

from pusa_jax.configs.common import adapters, pusa


def get_config():
    """The settings."""
    config = pusa("wan2.1-t2v-1.3b")
    config.adapter = adapters(rank=256, alpha=256.0)
    return config
