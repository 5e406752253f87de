"""The models that come along: plain text-to-video from scratch, then Pusa's adapters on top.

    make tiny-world                  all stages, one after the other
    configs/tiny_world.py:base       the DiT, one noise level per clip
    configs/tiny_world.py:pusa       adapters of rank 32 on it, a level of its own for every frame

`make tiny-world` fills in the folders of weights and clips.
"""

from ml_collections import config_dict

from pusa_jax.configs.common import adapters, parse_arg, pusa


def get_config(arg=""):
    """The settings of a stage."""
    stage = parse_arg(arg, base=False, pusa=False)
    config = pusa("")
    config.model.family = "wan2.1"
    config.model.dit = config_dict.create(
        dim=192, ffn_dim=576, num_heads=6, num_layers=4, text_dim=64, text_len=12, freq_dim=64
    )
    config.model.vae = config_dict.create(dim=8)
    config.model.update(dtype="float32", remat="none")
    config.objective.levels.rounding = "none"
    config.objective.weighting = "none"
    config.objective.text_dropout = 0.1
    config.data.update(batch_size=32, height=48, width=48, num_frames=33)
    config.samples.every = 0
    config.checkpoint.update(every=2000, keep_every=10000)
    config.log.update(every=100, tensorboard=False)
    config.optimizer.update(
        learning_rate=1e-3, beta2=0.99, clip_norm=1.0, decay="cosine", weight_decay=0.0
    )
    if stage["pusa"]:
        config.steps = 2000
        config.adapter = adapters(rank=32, alpha=32.0)
        config.optimizer.update(warmup_steps=20, ema_decay=0.99)
    else:
        config.steps = 50000
        config.objective.levels.sampler = "shared"
        config.optimizer.update(warmup_steps=500, ema_decay=0.999)
    return config
