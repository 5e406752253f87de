"""Pusa by fine-tuning all 14 billion weights, which its authors recommend where resources allow.

    pusa-jax train --config=configs/pusa_full_14b.py --workdir=runs/pusa_full \
        --config.model.weights=Wan2.1-T2V-14B --config.data.folder=clips \
        --config.mesh.context=8 --config.optimizer.accumulate=4

Difference to pusa_v1_lora_14b: no adapters. Weights and Adam moments are float32, 160 GiB together,
cut over all devices: v6e:4x4 (the flags above) and v5p:2x2x1 hold a step at 480 x 832
(docs/plan_train.md).
The paper's ablation (table 5a) found it a little below LoRA at 900 steps on 480p clips (84.06
against 87.09).
"""

from pusa_jax.configs.common import pusa


def get_config():
    """The settings."""
    return pusa("wan2.1-t2v-14b")
