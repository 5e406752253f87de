"""FVDM's training on Wan2.1-T2V-1.3B: all weights, independent levels for one clip in five only.

    pusa-jax train --config=configs/fvdm_ptss_1.3b.py --workdir=runs/ptss \
        --config.model.weights=Wan2.1-T2V-1.3B --config.data.folder=clips

Difference to pusa_lora_1.3b: all weights are trained, levels are drawn by PTSS with p = 0.2, and
the optimizer is FVDM's (arXiv 2410.03160; train_video.py): learning rate 1e-4, no weight decay,
average with 0.9999, plain squared error. Pusa's ablation (arXiv 2507.16116v2, table 5b, 14B LoRA)
puts p = 0.2 at 84.74 on VBench-I2V against 87.69 for p = 1: the control that independent draws are
to beat. `:p=0.5` behind the file's name sets another probability.
"""

from pusa_jax.configs.common import parse_arg, pusa


def get_config(arg: str = ""):
    """The settings; `arg` may hold `p`."""
    config = pusa("wan2.1-t2v-1.3b")
    config.objective.levels.sampler = "ptss"
    config.objective.levels.probability = parse_arg(arg, p=0.2)["p"]
    config.objective.weighting = "none"
    config.optimizer.update(learning_rate=1e-4, weight_decay=0.0, ema_decay=0.9999)
    return config
