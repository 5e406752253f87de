"""Whole runs on eight simulated devices: continued, moved, stopped, refused."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small import (
    CheckpointConfig,
    DataConfig,
    MeshConfig,
    noise_clips,
    settings,
)

from pusa_jax.data.batches import NoiseClips
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.testing.compare import assert_close
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import RunConfig
from pusa_jax.training.layout import placement
from pusa_jax.training.loop import Loop, NonFiniteLossError, train
from pusa_jax.training.metrics import TIMINGS, read_records
from tests.groups import run_two

pytestmark = pytest.mark.long

CHILD = Path(__file__).parents[1] / "child.py"


def in_child(workdir: Path, event: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, CHILD, workdir, "8", event],
        cwd=CHILD.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def final(workdir: Path, step: int = 20):
    """State (on one device), data position and lasting records of a run."""
    run = settings()
    mesh = make_mesh({}, jax.devices()[:1])
    placed = placement(run.recipe, mesh, 8, run.clip_shape, run.text_shape)
    checkpoints = RunCheckpoints(workdir / "checkpoints", keep_last=0)
    state, info = checkpoints.restore(step, placed.state), checkpoints.info(step)
    leaves = jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key)))
    records = [
        {name: value for name, value in record.items() if not name.startswith(TIMINGS)}
        for record in read_records(workdir / "metrics.jsonl")
    ]
    return [np.asarray(leaf) for leaf in leaves], info["data"], records


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Workdir of twenty steps without a break."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    run = settings()
    assert train(run, noise_clips(run), workdir) == 20
    return workdir


def test_a_killed_run_continues_to_the_last_bit(straight, tmp_path):
    workdir = tmp_path / "killed"
    done = in_child(workdir, "die:14")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    run = settings()
    assert train(run, noise_clips(run), workdir) == 20
    (leaves, data, records), (expected, position, kept) = final(workdir), final(straight)
    assert data == position
    assert records == kept and [r["step"] for r in kept] == [3, 6, 9, 12, 15, 18]
    for ours, theirs in zip(leaves, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("before", "after"), [(8, 4), (4, 8)])
def test_a_run_moves_to_another_number_of_devices(straight, tmp_path, before, after):
    run, workdir = settings(), tmp_path / "moved"
    if before == 8:
        shutil.copytree(straight, workdir)
        shutil.rmtree(workdir / "checkpoints" / "20")
    else:
        half = dataclasses.replace(run, steps=10)
        train(half, noise_clips(run), workdir, devices=jax.devices()[:before])
    in_parts = dataclasses.replace(run.optimizer, accumulate=8 // after)
    run = dataclasses.replace(run, optimizer=in_parts)
    train(run, noise_clips(run), workdir, devices=jax.devices()[:after])
    leaves, expected = final(workdir)[0], final(straight)[0]
    for ours, theirs in zip(leaves, expected, strict=True):
        assert_close(ours, theirs, 1e-6)


def test_checkpoints_hold_what_a_run_needs(straight):
    checkpoints = RunCheckpoints(straight / "checkpoints", keep_last=0)
    assert checkpoints.steps == [10, 20]
    info = checkpoints.info(20)
    assert info["config"]["optimizer"]["learning_rate"] == 1e-3
    assert info["step"] == 20 and len(info["git_commit"]) in (0, 40, 41)
    assert json.loads((straight / "config.json").read_text())["seed"] == 3


def test_sigterm_saves_and_ends_well(tmp_path):
    run = settings()

    def on_step(step, steps, record):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopped = train(run, noise_clips(run), tmp_path, on_step)
    assert stopped in (6, 7)
    assert RunCheckpoints(tmp_path / "checkpoints", keep_last=0).steps == [stopped]
    assert signal.getsignal(signal.SIGTERM) == before


class Poisoned(NoiseClips):
    """Clips of which one has a value that is not a number."""

    bad = ""

    def at(self, indices):
        batch = super().at(indices)
        if self.bad in batch["id"]:
            batch["latents"][batch["id"].index(self.bad)] = np.nan
        return batch


def test_a_loss_that_is_no_number_names_its_clip_and_spares_the_checkpoints(tmp_path):
    run = settings(checkpoint=CheckpointConfig(every=1, keep_last=20))
    clips = Poisoned(run.clip_shape, run.text_shape, count=20)
    order = clips.batches(8, range(8), run.seed)
    seen = [next(order)["id"] for _ in range(3)]
    clips.bad = next(name for name in seen[2] if name not in seen[0] + seen[1])
    message = rf"step 3: .*clips {clips.bad}\. The last .* step 2\."
    with pytest.raises(NonFiniteLossError, match=message):
        train(run, clips, tmp_path)
    leaves = final(tmp_path, 2)[0]
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_full_disk_spares_the_checkpoint_before(tmp_path):
    workdir = tmp_path / "full"
    done = in_child(workdir, "full:3")
    message = rf"OSError: .*could not be saved in {workdir}.* complete one is of step 2: .*large"
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert RunCheckpoints(workdir / "checkpoints", keep_last=1).steps == [2]
    assert sorted(os.listdir(workdir / "checkpoints")) == ["2"]  # opening it removes what is left
    assert final(workdir, 2)[1] == {"step": 2}


def test_a_workdir_serves_one_run_at_a_time(straight, tmp_path):
    run = settings(steps=1)

    def on_step(step, steps, record):
        with pytest.raises(ValueError, match=rf"is in use by another run \(process {os.getpid()}"):
            train(run, noise_clips(run), tmp_path)

    assert train(run, noise_clips(run), tmp_path, on_step) == 1


def test_a_workdir_that_was_moved_is_told(tmp_path):
    run, workdir = settings(steps=4, checkpoint=CheckpointConfig(every=2)), tmp_path / "run"

    def on_step(step, steps, record):
        if step == 2:  # just before it is saved
            workdir.rename(tmp_path / "moved")

    with pytest.raises(FileNotFoundError, match=f"^{workdir} was moved or removed while this run"):
        train(run, noise_clips(run), workdir, on_step)
    assert not workdir.exists()
    assert train(run, noise_clips(run), tmp_path / "moved") == 4


def test_another_config_is_refused_with_what_differs(straight):
    run = settings(optimizer=dataclasses.replace(settings().optimizer, beta2=0.99), seed=4)
    message = r"another config: optimizer.beta2 is 0.999 there and 0.99 here; seed is 3 there and 4"
    with pytest.raises(ValueError, match=message):
        train(run, noise_clips(run), straight)


def test_another_run_is_continued_with_new_settings(straight, tmp_path):
    run = settings(
        checkpoint=CheckpointConfig(resume=str(straight)),
        optimizer=dataclasses.replace(settings().optimizer, learning_rate=0.0, ema_decay=0.5),
        steps=21,
    )
    assert train(run, noise_clips(run), tmp_path) == 21
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [21]
    with pytest.raises(FileNotFoundError, match="does not exist; name a workdir"):
        other = settings(checkpoint=CheckpointConfig(resume=str(tmp_path / "none")))
        train(other, noise_clips(run), tmp_path / "new")


@pytest.mark.parametrize("change", ["drop family", "add wings"])
def test_a_run_of_an_earlier_version_goes_on_if_its_settings_are_known(
    tmp_path, monkeypatch, change
):
    run, record = settings(steps=1), RunConfig.record

    def earlier(run):
        model = record(run)["model"]
        if change == "drop family":  # a run saved before families had names
            del model["family"]
        else:
            model["wings"] = 2
        return record(run) | {"model": model}

    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "record", earlier)
        train(run, noise_clips(run), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["model"]
    run = dataclasses.replace(run, steps=2)
    if change == "drop family":
        assert "family" not in saved and run.model.family == "wan2.1"
        assert train(run, noise_clips(run), tmp_path) == 2
    else:
        with pytest.raises(ValueError, match=r"cannot be continued: .*'wings' is unknown"):
            train(run, noise_clips(run), tmp_path)


def test_a_batch_that_lies_on_the_host_is_no_batch(tmp_path, monkeypatch):
    run = settings(steps=1)
    fetch = Loop._fetch
    monkeypatch.setattr(Loop, "_fetch", lambda loop: jax.device_get(fetch(loop)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(run, noise_clips(run), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": DataConfig(batch_size=6, height=8, width=8, num_frames=5)},
            "multiple of mesh da",
        ),
        (
            {"data": DataConfig(height=16, width=8, num_frames=5)},
            r"\(3, 4, 4, 4\).*the run wants",
        ),
        ({"mesh": MeshConfig(data=3)}, "needs 3 devices, there are 8"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(settings(**changes), noise_clips(settings()), tmp_path)


def test_no_clips_are_refused(tmp_path):
    run = settings()
    clips = noise_clips(run)
    clips._numbers = ()
    with pytest.raises(ValueError, match="holds no clips; encode some first"):
        train(run, clips, tmp_path)


def test_two_processes_stop_together_and_one_goes_on(straight, tmp_path):
    workdir = tmp_path / "group"
    run_two([CHILD, workdir, "4", "term:5"], {}, CHILD.parent)
    (stopped,) = RunCheckpoints(workdir / "checkpoints", keep_last=0).steps
    assert 5 < stopped < 20
    run = settings()
    assert train(run, noise_clips(run), workdir) == 20
    (leaves, data, records), (expected, position, kept) = final(workdir), final(straight)
    assert data == position and [r["step"] for r in records] == [r["step"] for r in kept]
    for what in ("loss", "grad_norm"):  # those of the first steps are of two processes
        ours, theirs = ([record[what] for record in some] for some in (records, kept))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for ours, theirs in zip(leaves, expected, strict=True):
        assert_close(ours, theirs, 1e-5)
