"""Everything a run does, in less than a minute on a laptop's CPU: a tiny network, clips of noise.

    pusa-jax train --config=configs/debug.py --workdir=runs/debug

Twenty steps of adapters with a checkpoint every five and pictures every ten; the loss stays where
noise leaves it. With `--config.model.weights` and `--config.data.folder` it trains a tiny model in
the published layout on real clips (`make train-debug`).
"""

from ml_collections import config_dict

from pusa_jax.configs.common import adapters, pusa


def get_config():
    """The settings."""
    config = pusa("")
    config.steps = 20
    config.model.family = "wan2.1"
    config.model.dit = config_dict.create(
        dim=96, ffn_dim=192, num_heads=4, num_layers=3, text_dim=32, text_len=32, freq_dim=64
    )
    config.model.vae = config_dict.create(dim=8, num_res_blocks=1)
    config.model.dtype = "float32"
    config.adapter = adapters(rank=4, alpha=4.0)
    config.optimizer.learning_rate = 1e-3
    config.data.update(batch_size=8, height=32, width=48, num_frames=9)
    config.checkpoint.update(every=5, keep_every=10)
    config.log.update(every=5, tensorboard=False)
    config.samples.update(every=10, num_steps=4)
    return config
