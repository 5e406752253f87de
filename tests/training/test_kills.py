"""A run killed again and again, mostly while it saves: what is there is complete, and goes on."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small import CheckpointConfig, noise_clips, settings

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.layout import placement
from pusa_jax.training.loop import train

pytestmark = pytest.mark.long

CHILD = Path(__file__).parents[1] / "child.py"


def states(workdir):
    """Step -> bytes of every array of every checkpoint there is."""
    run = settings()
    placed = placement(run.recipe, make_mesh({}, jax.devices()[:1]), 8, run.clip_shape, (6, 12))
    checkpoints = RunCheckpoints(workdir / "checkpoints", keep_last=0)
    found = {}
    for step in checkpoints.steps:
        assert checkpoints.info(step)["step"] == step
        state = checkpoints.restore(step, placed.state)
        state = dataclasses.replace(state, key=jax.random.key_data(state.key))
        found[step] = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return found


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_no_moment_of_death_loses_or_tears_a_checkpoint(tmp_path, kills):
    rng, workdir, newest = np.random.default_rng(kills), tmp_path / "run", 0
    for life in range(kills):
        child = subprocess.Popen(
            [sys.executable, CHILD, workdir, "8", "saves"],
            cwd=CHILD.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        steps = 2 + int(rng.integers(4)) if life % 5 != 4 else 0
        for _ in range(steps):
            assert child.stdout is not None and child.stdout.readline().strip().isdigit()
        time.sleep(rng.uniform(0, 0.1) if steps else rng.uniform(0, 4))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        if (workdir / "checkpoints").exists():
            found = states(workdir)
            assert max(found, default=0) >= newest
            newest = max(found, default=0)
    assert newest >= kills
    run = settings(checkpoint=CheckpointConfig(every=newest), steps=newest)
    train(run, noise_clips(run), tmp_path / "straight")
    assert states(workdir)[newest] == states(tmp_path / "straight")[newest]
