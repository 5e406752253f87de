"""FVDM on Taichi-HD: LatteVIDEO-XL/2 from nothing.

    pusa-jax encode --model MODEL --layout taichi --src taichi-256 --dst clips
    pusa-jax train --config=configs/fvdm_taichi_xl2.py --workdir=runs/fvdm_taichi_xl2 \
        --config.data.folder=clips

Difference to fvdm_ffs_b2: the larger network and 500,002 steps of 4 clips. The original would clip
gradients from step 500,000 on: not before its end.
"""

from pusa_jax.configs.common import fvdm


def get_config():
    """The settings."""
    config = fvdm("fvdm-xl-2")
    config.steps = 500_002
    config.data.batch_size = 4
    return config
