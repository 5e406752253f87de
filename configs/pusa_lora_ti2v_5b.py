"""Pusa on Wan2.2-TI2V-5B: the recipe of pusa_v1_lora_14b on the small model of Wan2.2.

    pusa-jax encode --model Wan2.2-TI2V-5B --src media --dst clips \
        --height 704 --width 1280 --num_frames 121
    pusa-jax train --config=configs/pusa_lora_ti2v_5b.py --workdir=runs/pusa_5b \
        --config.model.weights=Wan2.2-TI2V-5B --config.data.folder=clips

Difference to pusa_v1_lora_14b: the base with its own autoencoder, and clips of 121 frames at 24 a
second and 704 x 1280. The original publishes no such model, so there is no number to compare with.
"""

from pusa_jax.configs.common import adapters, pusa


def get_config():
    """The settings."""
    config = pusa("wan2.2-ti2v-5b")
    config.adapter = adapters(rank=512, alpha=512.0)
    config.data.update(height=704, width=1280, num_frames=121)
    return config
