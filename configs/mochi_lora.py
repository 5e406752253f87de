"""A LoRA of Mochi-1 preview as genmo's fine-tuner trains it: text to video, one level per clip.

    pusa-jax encode --model mochi-1-preview --src media --dst clips \
        --height 480 --width 848 --num_frames 37
    pusa-jax train --config=configs/mochi_lora.py --workdir=runs/mochi_lora \
        --config.model.weights=mochi-1-preview --config.data.folder=clips
    pusa-jax export --src runs/mochi_lora --dst mochi-lora --naming genmo

Rank 16 on the attention of both streams, 2000 steps of one clip, learning rate 2e-4 along a cosine
behind 200 steps, levels even in [0, 1], one caption in ten dropped (genmoai/mochi,
demos/fine_tuner). For a LoRA that learns what Pusa V0.5 did, a level per frame from Mochi's table:
`--config.objective.levels.sampler=independent --config.objective.levels.even=False`.
Differences: levels lie on a grid of 1000, and the last block's layers, which genmo's trainer adapts
with the others, have names of their own here.
"""

from pusa_jax.configs.common import adapters, pusa


def get_config():
    """The settings."""
    config = pusa("mochi-1-preview")
    config.steps = 2000
    config.adapter = adapters(rank=16, alpha=16.0)
    config.adapter.targets = "(blocks|last)/(visual|text)/[qkvo]"
    config.objective.weighting = "none"
    config.objective.text_dropout = 0.1
    config.objective.original_input = True
    config.objective.levels.update(sampler="shared", rounding="none", even=True)
    config.optimizer.update(learning_rate=2e-4, warmup_steps=200, decay="cosine")
    config.data.update(batch_size=1, height=480, width=848, num_frames=37)
    config.checkpoint.update(every=200, keep_every=200)
    config.samples.update(every=200, guidance_scale=4.5)
    return config
