"""Jobs that commands ask for are recorded instead of made."""

import types
from pathlib import Path

import numpy as np
import pytest

from pusa_jax.convert.folders import opened as folders
from pusa_jax.devices import compile_cache
from pusa_jax.inference import job_plan, jobs, loading
from pusa_jax.inference.pipeline import Output
from pusa_jax.inference.settings import Configs
from pusa_jax.models.families import preset
from pusa_jax.models.latte.family import LATTE
from pusa_jax.models.wan.family import WAN21, WAN22

WAN, CLASSES = (
    Configs(dit=preset(name).dit, vae=preset(name).vae)
    for name in ("wan2.1-t2v-14b", "fvdm-xl-2-ucf101")
)
FRAMES = np.zeros((5, 32, 32, 3), np.uint8)


class Seen:
    """What the commands asked of the library."""

    def __init__(self):
        self.prepared, self.progress, self.kept = [], [], []
        self.job, self.numbered, self.cautions = None, False, ()


@pytest.fixture
def seen(monkeypatch):
    """Jobs are recorded instead of made."""
    seen = Seen()

    def found(path):
        family = {"two": WAN22, "classes": LATTE}.get(path, WAN21)
        return types.SimpleNamespace(path=Path(path), family=family)

    def opened(folder, **loras):
        configs = CLASSES if folder.family is LATTE else WAN
        return types.SimpleNamespace(folder=folder, family=folder.family, configs=configs)

    def prepare(job, output, model=None, *, numbered=False):
        assert model is None or str(model.folder.path) == job.model
        seen.job = job
        seen.prepared.append((job, str(output)))
        seen.numbered = numbered
        return types.SimpleNamespace(job=job, output=output, cautions=seen.cautions, conditions=())

    def run(prepared, on_progress):
        seen.progress.append(on_progress)
        result = Output(
            frames=FRAMES,
            latents=np.zeros((1, 1, 1, 1, 1)),
            seed=0,
            settings={},
            passes=20,
            seconds={"text": 1.0, "denoise": 2.0},
        )
        return result, {"latents_sha256": result.latents_sha256()}, prepared.output

    monkeypatch.setattr(folders, "ModelFolder", found)
    monkeypatch.setattr(loading, "open_model", opened)
    monkeypatch.setattr(jobs, "prepare", prepare)
    monkeypatch.setattr(jobs, "run", run)
    monkeypatch.setattr(job_plan, "describe_plan", lambda prepared: {"task": prepared.job.task})
    monkeypatch.setattr(
        compile_cache, "keep_compiled", lambda folder, on_damage: seen.kept.append(folder)
    )
    return seen
