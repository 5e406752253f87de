"""FVDM on SkyTimelapse: LatteVIDEO-XL/2 from nothing.

    pusa-jax encode --model MODEL --layout skytimelapse --src SkyTimelapse --dst clips
    pusa-jax train --config=configs/fvdm_sky_xl2.py --workdir=runs/fvdm_sky_xl2 \
        --config.data.folder=clips

Difference to fvdm_ffs_b2: the larger network, 400,002 steps of 4 clips, and gradients clipped to a
norm of 0.1 from step 100,000 on.
"""

from pusa_jax.configs.common import fvdm


def get_config():
    """The settings."""
    config = fvdm("fvdm-xl-2")
    config.steps = 400_002
    config.data.batch_size = 4
    config.optimizer.update(clip_norm=0.1, clip_from=100_000)
    return config
