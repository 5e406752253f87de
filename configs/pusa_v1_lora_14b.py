"""Pusa V1.0 as published: Wan2.1-T2V-14B with rank-512 adapters, every frame its own noise level.

    pusa-jax train --config=configs/pusa_v1_lora_14b.py --workdir=runs/pusa_v1 \
        --config.model.weights=Wan2.1-T2V-14B --config.data.folder=clips

Reproduces the run behind pusa_v1.safetensors (arXiv 2507.16116v2, section 4 and appendix): 900
steps of 8 clips of 81 x 480 x 832 at a learning rate of 1e-5, about 1.9 passes over 3860 clips. The
paper used 8 GPUs of 80 GB; `pusa-jax plan train` says what fits yours. With fewer devices than
clips in a batch, compute it in parts: `--config.optimizer.accumulate=8`; with smaller ones, split
the tokens of a clip: `--config.mesh.context=4`. Sampled with strength 1.4 it scored 87.32 on
VBench-I2V.
"""

from pusa_jax.configs.common import adapters, pusa


def get_config():
    """The settings."""
    config = pusa("wan2.1-t2v-14b")
    config.adapter = adapters(rank=512, alpha=512.0)
    return config
