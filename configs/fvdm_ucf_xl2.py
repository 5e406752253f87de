"""FVDM on UCF101: LatteVIDEO-XL/2 with its 101 classes, from nothing.

    pusa-jax encode --model MODEL --layout ucf101 --src UCF-101 --dst clips
    pusa-jax train --config=configs/fvdm_ucf_xl2.py --workdir=runs/fvdm_ucf_xl2 \
        --config.data.folder=clips

Difference to fvdm_ffs_b2: the larger network with labels, of which one in ten is dropped so that
clips can be guided; 500,002 steps of 4 clips, and gradients clipped to a norm of 0.1 from step
100,000 on. The caption of a clip is the number of its class, 0 to 100.
"""

from pusa_jax.configs.common import fvdm


def get_config():
    """The settings."""
    config = fvdm("fvdm-xl-2-ucf101")
    config.steps = 500_002
    config.data.batch_size = 4
    config.objective.text_dropout = 0.1
    config.optimizer.update(clip_norm=0.1, clip_from=100_000)
    config.samples.guidance_scale = 7.0
    return config
