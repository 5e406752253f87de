"""Pusa V0.5 as published: all weights of Mochi-1 preview, every frame its own noise level.

    pusa-jax train --config=configs/pusa_v05_full_mochi.py --workdir=runs/pusa_v05 \
        --config.model.weights=mochi-1-preview --config.data.folder=clips \
        --config.mesh.context=4 --config.optimizer.accumulate=8

Reproduces the run behind pusa_v0_dit.safetensors (Mochi-Full-Finetuner, train_pusa.py): 500 steps
of 32 clips of 163 x 480 x 848 at a learning rate of 1e-5, levels drawn from Mochi's own table, the
plain squared error, one caption in ten dropped; its authors used 16 GPUs of 80 GB.
Differences: captions are dropped clip by clip, where the original drops those of a whole part of a
batch; and `pusa-jax encode` takes the mean of the autoencoder's posterior, where the original drew
from it anew at every read.
"""

from pusa_jax.configs.common import pusa


def get_config():
    """The settings."""
    config = pusa("mochi-1-preview")
    config.steps = 500
    config.objective.weighting = "none"
    config.objective.text_dropout = 0.1
    config.objective.original_input = True
    config.objective.levels.rounding = "none"
    config.data.update(batch_size=32, height=480, width=848, num_frames=163)
    config.checkpoint.update(every=100, keep_every=100)
    config.samples.update(guidance_scale=4.5)
    return config
