"""Jobs that need no model, and a pipeline that answers them."""

import jax
import numpy as np
from numbered import SIZE, frame

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import jobs
from pusa_jax.inference.jobs import Job
from pusa_jax.inference.loading import Model
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.settings import Configs
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

SMALL = SamplingConfig(height=SIZE, width=SIZE, num_frames=33)
CONFIGS = Configs(
    dit=DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1), vae=VAEConfig(dim=8)
)
TEXT = TextConfig(vocab=8, dim=8, dim_attn=8, dim_ffn=8, num_heads=2, num_layers=1)


def job_of(task="t2v", *inputs, **changes):
    plain = {"model": "m", "prompt": "p", "negative_prompt": "n", "settings": SMALL}
    return Job(task=task, inputs=tuple(map(str, inputs)), **plain | changes)


MESH = {"data": 1, "context": 1, "tensor": 1}


def prepared_of(job, output, conditions=()):
    mesh = make_mesh(MESH, jax.local_devices()[:1])
    model = model_of(CONFIGS)
    return jobs.Prepared(
        job=job, output=output, model=model, conditions=list(conditions), mesh=mesh
    )


def model_of(configs):
    """A model whose folder is never looked into."""
    folder = object.__new__(ModelFolder)
    folder.family = WAN21
    folder.config = {"text_encoder": TEXT}.__getitem__
    return Model(folder=folder, configs=configs)


class Recorder(PusaPipeline):
    """Keeps what it is called with, and answers with a clip."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompt, **given):
        self.calls.append((prompt, given))
        return Output(
            frames=np.stack([frame(i) for i in range(5)]),
            latents=np.arange(6, dtype=np.float32).reshape(1, 1, 1, 2, 3),
            seed=5,
            settings={},
            passes=2,
            seconds={"denoise": 1.5},
        )


def quiet(stage, done, total):
    """Reports nothing."""
