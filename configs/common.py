"""Pieces that several configs share. Values only; a run's settings are `training/config.py`'s."""

from typing import Any

from ml_collections import config_dict


def parse_arg(arg: str, **defaults: bool | int | float | str) -> dict[str, Any]:
    """Reads the argument behind a config's name, as in `--config=configs/x.py:steps=10,tiny`.

    Args:
      arg: fields with values, separated by commas; a field alone is set to True.
      **defaults: the fields there are, and their values where `arg` says nothing.

    Raises:
      ValueError: a field that there is not.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults:
            raise ValueError(f"unknown config argument {name!r}; known: {', '.join(defaults)}.")
        kind = type(defaults[name])
        values[name] = True if kind is bool and not value else kind(value)
    return values


def pusa(preset: str) -> Any:
    """What the original trains with: arXiv 2507.16116v2 and PusaV1/examples/pusavideo/train.sh."""
    config: Any = config_dict.ConfigDict()
    config.seed = 0
    config.steps = 900
    config.model = config_dict.create(
        preset=preset,
        weights="random",  # a folder for a run that is to learn something
        dtype="bfloat16",
        numerics="diffsynth",
        remat="full",
    )
    config.objective = config_dict.create(
        levels=dict(sampler="independent", probability=1.0, shift=5.0, rounding="bfloat16"),
        weighting="pusa",
        text_dropout=0.0,
    )
    config.optimizer = config_dict.create(
        learning_rate=1e-5,
        warmup_steps=0,
        decay="constant",
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=0.0,
        clip_from=0,
        ema_decay=0.0,
        accumulate=1,
    )
    config.data = config_dict.create(
        folder="random",
        batch_size=8,
        height=480,
        width=832,
        num_frames=81,
        validation="",
        validation_every=50,
    )
    config.mesh = config_dict.create(data=-1, context=1, tensor=1, sharding="fsdp")
    config.checkpoint = config_dict.create(every=150, keep_last=2, keep_every=150, resume="")
    config.log = config_dict.create(every=10, tensorboard=True, wandb="")
    config.samples = config_dict.create(
        every=150, count=2, num_steps=10, guidance_scale=3.0, multiplier=0.0, strip=8
    )
    return config


def fvdm(preset: str) -> Any:
    """What FVDM trains with: arXiv 2410.03160, its train_video.py and configs/*/*_video.yaml."""
    config = pusa(preset)
    config.seed = 3407
    config.model.dtype = "float32"
    config.objective.levels.update(sampler="ptss", probability=0.2, rounding="none")
    config.objective.weighting = "none"
    config.optimizer.update(learning_rate=1e-4, weight_decay=0.0, ema_decay=0.9999)
    config.data.update(height=256, width=256, num_frames=16)
    config.checkpoint.update(every=10_000, keep_every=50_000)
    config.samples.update(every=10_000, num_steps=50, guidance_scale=1.0)
    return config


def adapters(rank: int, alpha: float) -> Any:
    """Low-rank adapters on the ten linear layers of every block, as the original has them."""
    return config_dict.create(
        rank=rank,
        alpha=alpha,
        targets="blocks/(self_attn|cross_attn)/[qkvo]|blocks/ffn/(up|down)",
        init="kaiming",
    )


def expert(name: str) -> Any:
    """Adapters of Pusa's size on one expert of Wan2.2-T2V-A14B; alone it samples no clip."""
    config = pusa("wan2.2-t2v-a14b")
    config.model.expert = name
    config.adapter = adapters(rank=512, alpha=512.0)
    config.samples.every = 0
    return config
