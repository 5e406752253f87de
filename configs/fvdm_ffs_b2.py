"""FVDM on FaceForensics: LatteVIDEO-B/2 from nothing, a timestep per frame in one clip of five.

    pusa-jax encode --model MODEL --layout faceforensics --src FaceForensics --dst clips
    pusa-jax train --config=configs/fvdm_ffs_b2.py --workdir=runs/fvdm_ffs \
        --config.data.folder=clips

Clips of 16 frames of 256 x 256 as latents of Stable Diffusion's autoencoder; AdamW at 1e-4 without
decay, average with 0.9999, the squared error of the noise and the bound of its variance, PTSS with
p = 0.2; 300,002 steps of 3 clips (configs/ffs/ffs_train_video.yaml, train_scripts), computed in
float32. `:p=0.5` behind the file's name sets another probability: the paper's ablation is on this
set, with 0, 0.1, 0.2, 0.3, 0.5 and 0.8.
Differences: the coin of PTSS is flipped for every clip, where the original flips one for each step
and process; `--config.objective.levels.sampler=ptss_per_batch` flips one for each step. And
`pusa-jax encode` takes the mean of the autoencoder's posterior, where the original drew from it at
every read.
"""

from pusa_jax.configs.common import fvdm, parse_arg


def get_config(arg: str = ""):
    """The settings; `arg` may hold `p`."""
    config = fvdm("fvdm-b-2")
    config.objective.levels.probability = parse_arg(arg, p=0.2)["p"]
    config.steps = 300_002
    config.data.batch_size = 3
    return config
