"""Pusa on the high-noise expert of Wan2.2-T2V-A14B: the recipe of pusa_v1_lora_14b.

    pusa-jax train --config=configs/pusa_wan22_high_14b.py --workdir=runs/pusa_high \
        --config.model.weights=Wan2.2-T2V-A14B --config.data.folder=clips

Difference to pusa_v1_lora_14b: the base, and noise levels drawn from 0.875 up, the part of the
training table that this expert serves. One expert alone samples no clip, so there are no pictures
on the way. `pusa-jax export` writes high_noise_pusa.safetensors. The other expert is trained by
pusa_wan22_low_14b, in a run of its own.
"""

from pusa_jax.configs.common import expert


def get_config():
    """The settings."""
    return expert("dit")
