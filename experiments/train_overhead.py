"""How much of a training run's time is not spent in the compiled step.

    python -m experiments.train_overhead            (about two minutes on two CPU cores)

Question: does the harness (data, checks, records, progress) slow training down? The tiny network of
configs/debug.py is trained by `training.loop` with a record every ten steps; the same compiled step
is then called with nothing around it, both again and again in turn. Compared is the time of ten
steps, a record included; of all such times the fastest tenth, because other work on the machine
only ever adds. Prints one JSON object.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from pusa_jax.cli.run_flags import parse
from pusa_jax.data.batches import NoiseClips
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.training.layout import placement, shardings_of
from pusa_jax.training.loop import jit_step, train
from pusa_jax.training.step import Frozen, first_state

BLOCK = 10
"""Steps timed together: one record falls into each."""


def looped(run, clips) -> np.ndarray:
    """Seconds of every block of a whole run but the first and the last."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        train(run, clips, Path(folder), lambda *_: times.append(time.perf_counter()))
    return np.diff(times[BLOCK - 1 : -BLOCK : BLOCK])


def bare(run, clips) -> np.ndarray:
    """Seconds of as many blocks of the compiled step alone, on one batch."""
    recipe, mesh = run.recipe, make_mesh(run.mesh.shape(len(jax.devices())))
    with jax.set_mesh(mesh):
        placed = placement(recipe, mesh, run.data.batch_size, clips.clip_shape, clips.text_shape)
        step = jit_step(recipe, placed).lower(placed.state, placed.frozen, placed.batch).compile()
        zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), placed.frozen)
        frozen: Frozen = jax.device_put(zeros, shardings_of(placed.frozen))
        state = jax.device_put(
            first_state(recipe, zeros.base, jax.random.key(0)), shardings_of(placed.state)
        )
        batch = placed.global_batch(next(clips.batches(run.data.batch_size, placed.rows(), 0)))
        times, metrics = [], None
        for _ in range(run.steps):
            before = metrics
            state, metrics = step(state, frozen, batch)
            jax.block_until_ready(before)  # one step behind, as the loop is
            times.append(time.perf_counter())
    return np.diff(times[BLOCK - 1 : -BLOCK : BLOCK])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    config = Path(__file__).resolve().parents[1] / "configs" / "debug.py"
    run, _ = parse([f"--config={config}", f"--config.steps={args.steps}"])
    run = dataclasses.replace(
        run,
        samples=dataclasses.replace(run.samples, every=0),
        checkpoint=dataclasses.replace(run.checkpoint, every=10 * args.steps),
        log=dataclasses.replace(run.log, every=BLOCK),
    )
    clips = NoiseClips(run.clip_shape, run.text_shape)
    times: dict[str, list[np.ndarray]] = {"looped": [], "bare": []}
    with tempfile.TemporaryDirectory() as programs:
        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for _ in range(args.repeats):
            times["looped"].append(looped(run, clips))
            times["bare"].append(bare(run, clips))
    seconds = {name: np.quantile(np.concatenate(t), 0.1) / BLOCK for name, t in times.items()}
    share = 1 - seconds["bare"] / seconds["looped"]
    print(json.dumps(seconds | {"share_outside_the_step": share, "repeats": args.repeats}))


if __name__ == "__main__":
    main()
