"""Seconds of a training step on one device, and its share of what the device can compute.

  python -m experiments.bench_train                     (every part that suits the device)
  python -m experiments.bench_train --part 1.3b-full    (one part; all take under ten minutes)
  python -m experiments.bench_train --part tiny         (seconds, on any CPU)

Timed is the step that `pusa-jax train` compiles for the config files named below, on random
weights and clips of noise, with nothing around it. Each part has a process, and the memory, to
itself. FLOPs are the model's by formula (training/metrics.py): what is computed twice to save
memory counts once. The share is that of bfloat16 matrix products of 8192 x 8192, measured in the
same run. The predicted memory is what `pusa-jax plan train` says for the same flags.

Needs a checkout with jax, flax, optax and ml_collections; on a GPU jax with CUDA, as in
pip install "jax[cuda13]".
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.bench_dit import default_parts, gib, matmul, random_like, seconds

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FULL = (f"--config={CONFIGS / 'fvdm_ptss_1.3b.py'}", "--config.data.batch_size=2")
PARTS = {
    "tiny": (f"--config={CONFIGS / 'debug.py'}",),
    "1.3b-full": (*_FULL, "--config.model.remat=attention"),
    "1.3b-full-dots": (*_FULL, "--config.model.remat=dots", "--config.optimizer.accumulate=2"),
    # Two clips in turn need the memory of eight: the paper's batch takes four times as long.
    "14b-lora": (
        f"--config={CONFIGS / 'pusa_v1_lora_14b.py'}",
        "--config.data.batch_size=2",
        "--config.optimizer.accumulate=2",
    ),
}
"""Name -> flags of `pusa-jax train` and of `pusa-jax plan train --topology=h200:1`."""


def rows(part: str, repeats: int) -> Iterator[dict[str, Any]]:
    """The device's peak, then the step of a part."""
    from pusa_jax.cli.run_flags import parse
    from pusa_jax.data.batches import NoiseClips
    from pusa_jax.devices.sharding import make_mesh
    from pusa_jax.planning import report
    from pusa_jax.training.layout import placement, shardings_of
    from pusa_jax.training.loop import jit_step
    from pusa_jax.training.metrics import step_flops
    from pusa_jax.training.step import Frozen, first_state

    yield matmul(repeats)
    device = jax.devices()[0]
    run = parse(PARTS[part])[0]
    recipe = run.recipe
    clips, mesh = NoiseClips(run.clip_shape, run.text_shape, count=2), make_mesh({}, [device])
    with jax.set_mesh(mesh):
        placed = placement(recipe, mesh, run.data.batch_size, clips.clip_shape, clips.text_shape)
        shapes = placed.state, placed.frozen, placed.batch
        since = time.perf_counter()
        step = jit_step(recipe, placed).lower(*shapes).compile()
        compiled = time.perf_counter() - since
        trained = random_like(placed.state.params) if recipe.adapter is None else {}
        frozen = Frozen(base=random_like(placed.frozen.base), no_text=clips.no_text[None])
        frozen = jax.device_put(frozen, shardings_of(placed.frozen))
        begin = jax.jit(
            functools.partial(first_state, recipe),
            out_shardings=shardings_of(placed.state),
            donate_argnums=0,
        )
        state = begin(trained, jax.random.key(0))
        batch = placed.global_batch(next(clips.batches(run.data.batch_size, placed.rows(), 0)))
        losses = []

        def take() -> None:
            nonlocal state
            state, metrics = step(state, frozen, batch)
            losses.append(float(metrics["loss"]))

        taken = seconds(take, repeats)
    if not all(abs(loss) < float("inf") for loss in losses):
        raise ArithmeticError(f"losses are {losses}.")
    yield {
        "who": f"{part}, remat {run.model.remat}",
        "clips": run.data.batch_size,
        "seconds": taken,
        "flops": step_flops(recipe, placed.batch["latents"].shape),
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "predicted_bytes": report.peak(step.memory_analysis()),
        "compile_seconds": compiled,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


def in_process(part: str, repeats: int, limit: float) -> list[dict]:
    """Rows of a part run in a process of its own; a row with an `error` if it failed."""
    command = [sys.executable, "-m", "experiments.bench_train", "--worker"]
    command += ["--part", part, "--repeats", str(repeats)]
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95",
    }
    try:
        done = subprocess.run(
            command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, timeout=limit
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else ""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if not any("clips" in row for row in found):
        found.append({"who": part, "error": "failed or out of time, see above"})
    return found


def table(found: list[dict]) -> Iterator[str]:
    """Lines of a Markdown table."""
    peak = next((row["flops"] for row in found if row["who"] == "matmul"), None)
    for row in found:
        if "error" in row:
            yield f"| {row['who']} | {row['error']} | | | | | | |"
        if "clips" not in row:
            continue
        rate = row["flops"] / row["seconds"]
        cells = [
            row["who"],
            str(row["clips"]),
            f"{row['seconds']:.4g}",
            f"{rate / 1e12:.4g}",
            f"{100 * rate / peak:.0f} %" if peak else "-",
            gib(row["peak_bytes"]),
            gib(row["predicted_bytes"]),
            f"{row['compile_seconds']:.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> int:
    """Prints a table; returns 1 where a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=280, help="seconds for each part")
    parser.add_argument("--json", help="also write what was measured to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        for row in rows(args.part[0], args.repeats):
            print(json.dumps(row), flush=True)
        return 0
    results = {}
    for i, part in enumerate(args.part or default_parts(PARTS)):
        results[part] = found = in_process(part, args.repeats, args.limit)
        if i == 0:
            if found[0]["who"] == "matmul":
                peak = found[0]["flops"] / 1e12
                print(f"{found[0]['device']}, matmul peak {peak:.4g} TFLOP/s (bfloat16)")
            print(
                "| part | clips | s/step | model TFLOP/s | of peak | peak GiB | predicted GiB "
                "| compile s |\n|---|---|---|---|---|---|---|---|"
            )
        print("\n".join(table(found)), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=2)
    return int(any("error" in row for found in results.values() for row in found))


if __name__ == "__main__":
    sys.exit(main())
