"""What the shipped weights were trained by: settings and nothing else."""

import dataclasses

from experiments.tiny_world.autoencoder import Losses
from experiments.tiny_world.train_vae import Phase, VAERun
from pusa_jax.demo.world import WIDE
from pusa_jax.training.state import OptimizerConfig

VAE_FIRST = VAERun(
    phases=(
        Phase(steps=3000, batch=16, frames=1, size=32),
        Phase(steps=4000, batch=3, frames=9, size=32),
    ),
    optimizer=OptimizerConfig(
        learning_rate=8e-4,
        warmup_steps=100,
        decay="cosine",
        beta2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.998,
    ),
    decay_steps=8500,
)
"""Pictures, then short clips, in small frames: a frame of the world is mostly background."""

VAE_LAST = VAERun(
    phases=(Phase(steps=2200, batch=2, frames=9, size=48, worlds=1),),
    optimizer=dataclasses.replace(VAE_FIRST.optimizer, learning_rate=3e-4, warmup_steps=50),
    decay_steps=2200,
    seed=1,
)
"""Whole frames, half of them of the worlds; starts from the average of the first run."""

VAE_DECODER = VAERun(
    phases=(Phase(steps=3000, batch=4, frames=9, size=48, worlds=2),),
    optimizer=dataclasses.replace(VAE_LAST.optimizer, learning_rate=6e-4, ema_decay=0.99),
    frozen=("encoder", "conv1"),
    decay_steps=3000,
    seed=2,
)
"""Nothing but the worlds, for their corners; latents stay what they are."""

VAE_PICTURES = dataclasses.replace(
    VAE_DECODER,
    phases=(Phase(steps=1800, batch=4, frames=9, size=48, worlds=2),),
    optimizer=dataclasses.replace(VAE_DECODER.optimizer, learning_rate=4e-4),
    losses=Losses(pictures=True),
    decay_steps=1800,
    seed=3,
)
"""Pictures at places where clips were, as in start-end and loop."""

CLIPS = {"base": (WIDE, 12288), "pusa": (WIDE, 512)}
"""What the DiT sees, and the adapters: the first of them."""
