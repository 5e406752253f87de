"""Pusa on the low-noise expert of Wan2.2-T2V-A14B: the recipe of pusa_v1_lora_14b.

    pusa-jax train --config=configs/pusa_wan22_low_14b.py --workdir=runs/pusa_low \
        --config.model.weights=Wan2.2-T2V-A14B --config.data.folder=clips

Difference to pusa_wan22_high_14b: the expert, and noise levels drawn below 0.875. `pusa-jax export`
writes low_noise_pusa.safetensors.
"""

from pusa_jax.configs.common import expert


def get_config():
    """The settings."""
    return expert("dit_low")
