"""Videos that say of themselves how they were made, without any model."""

import numpy as np

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.jobs import Job
from pusa_jax.media import video

SIZE = 32
Y, X = np.mgrid[:SIZE, :SIZE]


def moving(num_frames, shift=0, size=SIZE):
    """A bright square over a gradient, which moves by a pixel a frame."""
    frames = np.stack([X * 4, Y * 4, 0 * X + 60], -1).astype(np.uint8)[None].repeat(num_frames, 0)
    for t in range(num_frames):
        x = (t + shift) % 20
        frames[t, 8:20, x : x + 12] = (210, 190, 170)
    return frames.repeat(size // SIZE, 1).repeat(size // SIZE, 2)


def job_record(task="t2v", *inputs, at=(), multipliers=None, layout=(), **changes):
    """What an mp4 of 17 frames holds; `layout` are changes to it."""
    settings = SamplingConfig(height=SIZE, width=SIZE, num_frames=17, seed=changes.pop("seed", 0))
    plain = {"model": "m", "prompt": "p", "negative_prompt": "", "settings": settings} | changes
    job = Job(task=task, inputs=tuple(map(str, inputs)), **plain)
    own = {
        "stride": 4, "fps": 16.0, "at": at, "multipliers": multipliers or [0.0] * len(at),
        "piece": None,
    }  # fmt: skip
    return {"job": job.as_record(), "layout": own | dict(layout)}


def written(path, frames, record=None, fps=16):
    video.write_video(path, frames, fps, record)
    return path
