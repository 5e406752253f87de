"""How much of a training run's time is not spent in the compiled step.

    python -m experiments.train_overhead            (about a minute on two CPU cores)

Question: does the harness (data, checks, records, progress) slow training down? The tiny network of
configs/debug.py is trained by `training.loop` with a record every ten steps; the same compiled step
is then called with nothing around it. Both are repeated in turn, and the fastest of each compared,
because other work on the machine only ever adds. Prints one JSON object.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax

from pusa_jax.cli_train import parse
from pusa_jax.sharding import make_mesh
from pusa_jax.training.batches import NoiseClips
from pusa_jax.training.loop import jit_step, train
from pusa_jax.training.placement import placement, shardings_of
from pusa_jax.training.step import Frozen, first_state

WARM_UP = 5


def looped(run, clips) -> float:
    """Seconds per step of a whole run, its start and its last save left out."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        train(run, clips, Path(folder), lambda *_: times.append(time.perf_counter()))
    return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)


def bare(run, clips) -> float:
    """Seconds per step of the compiled step alone, on one batch."""
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
    return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    config = Path(__file__).resolve().parents[1] / "configs" / "debug.py"
    run, _ = parse([f"--config={config}", f"--config.steps={args.steps}"])
    run = dataclasses.replace(
        run,
        samples=dataclasses.replace(run.samples, every=0),
        checkpoint=dataclasses.replace(run.checkpoint, every=10 * args.steps),
        log=dataclasses.replace(run.log, every=10),
    )
    clips = NoiseClips(run.clip_shape, run.text_shape)
    seconds = {"looped": [], "bare": []}
    for _ in range(args.repeats):
        seconds["looped"].append(looped(run, clips))
        seconds["bare"].append(bare(run, clips))
    best = {name: min(values) for name, values in seconds.items()}
    share = 1 - best["bare"] / best["looped"]
    print(json.dumps(best | {"share_outside_the_step": share, "repeats": args.repeats}))


if __name__ == "__main__":
    main()
