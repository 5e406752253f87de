"""Seconds of one guided DiT step, per-frame timesteps and random weights, ours against Diffusers'.

  python -m experiments.bench_dit                       (every part that suits the device)
  python -m experiments.bench_dit --part 14b-720p       (one part; each takes under ten minutes)
  python -m experiments.bench_dit --part tiny           (seconds, on any CPU)

Ours is the program that `pusa-jax` runs for each step, with a timestep for every latent frame; the
peer is Diffusers' WanTransformer3DModel, called twice with one timestep per clip, which is its
quickest form: eager, with each of its attention back ends that works here, and on a GPU compiled
block by block with the quickest of them. Both run on the same device one after the other, each in
a process of its own that has the memory to itself. FLOPs are the model's by formula
(pusa_jax/models/wan/flops.py); the share is that of bfloat16 matrix products of 8192 x 8192,
measured in the same run. The predicted memory is what `pusa-jax plan` would say.

Needs a plain checkout with jax and flax, nothing else; on a GPU jax with CUDA, as in
pip install "jax[cuda13]". For the peer: torch, diffusers (>= 0.36) and accelerate; without them its
rows say so.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from experiments.plain import do_without_jaxtyping

PASSES = 2
"""Forwards of a guided step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One model at one size; `preset` None is a model scaled down for CPUs."""

    preset: str | None
    height: int
    width: int
    num_frames: int = 81


PARTS = {
    "tiny": Part(preset=None, height=64, width=96, num_frames=9),
    "1.3b-480p": Part(preset="wan2.1-t2v-1.3b", height=480, width=832),
    "1.3b-720p": Part(preset="wan2.1-t2v-1.3b", height=720, width=1280),
    "14b-480p": Part(preset="wan2.1-t2v-14b", height=480, width=832),
    "14b-720p": Part(preset="wan2.1-t2v-14b", height=720, width=1280),
}
ATTENTION = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3", "sage")
"""Names of Diffusers' attention back ends; those that are not installed here drop out."""
LONG = 5.0
"""Seconds from which a call is repeated twice only."""


def planned(part: Part):
    """The part as something to plan and to run."""
    from pusa_jax.diffusion.config import SamplingConfig
    from pusa_jax.models.families import preset
    from pusa_jax.models.wan.config import DiTConfig
    from pusa_jax.planning import inference

    tiny = DiTConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64, text_len=32)
    chosen = preset(part.preset or "wan2.1-t2v-1.3b")
    if part.preset is None:
        chosen = dataclasses.replace(chosen, dit=tiny)
    settings = SamplingConfig(height=part.height, width=part.width, num_frames=part.num_frames)
    return inference.Run(name=part.preset or "tiny", preset=chosen, settings=settings)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call that returns when its work is done; the first one is not counted."""
    call()
    times: list[float] = []
    while len(times) < (repeats if not times or times[0] < LONG else min(repeats, 2)):
        since = time.perf_counter()
        call()
        times.append(time.perf_counter() - since)
    return statistics.median(times)


def matmul(repeats: int) -> dict:
    """FLOP/s of bfloat16 products of 8192 x 8192, on a CPU of 512 x 512."""
    import jax.numpy as jnp

    device = jax.devices()[0]
    side = 8192 if device.platform != "cpu" else 512
    drawn = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    square = drawn / jnp.sqrt(jnp.bfloat16(side))  # products stay of one size, and random
    product = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: x @ y, x))
    peak = 20 * side**3 / seconds(lambda: product(square).block_until_ready(), repeats)
    return {"who": "matmul", "device": device.device_kind, "flops": peak}


def ours(part: Part, repeats: int) -> Iterator[dict]:
    """Times the step program of the pipeline on one device."""
    import jax.numpy as jnp

    from pusa_jax.devices.sharding import make_mesh
    from pusa_jax.diffusion.sampling import Row
    from pusa_jax.inference.step import jitted_step
    from pusa_jax.planning import inference, report

    yield matmul(repeats)
    device = jax.devices()[0]
    run, mesh = planned(part), make_mesh({}, [device])
    shapes = inference.abstract_step(run, mesh)
    with jax.set_mesh(mesh):
        since = time.perf_counter()
        step = jitted_step(run.preset.family, mesh).lower(*shapes).compile()
        compiled = time.perf_counter() - since

    dit, texts, _, state, _ = random_like(shapes)
    multipliers = jnp.linspace(0.1, 1, state.latents.shape[1])
    row = Row(timesteps=1000 * multipliers, coefficients=-0.02 * multipliers)
    args = (dit, texts, jnp.float32(3), state, row)
    args = jax.device_put(args, jax.tree.map(lambda shape: shape.sharding, shapes))
    result = step(*args)
    if not bool(jnp.isfinite(result.latents).all()):
        raise ArithmeticError("the step's result is not finite.")
    taken = seconds(lambda: step(*args).latents.block_until_ready(), repeats)
    measured = (device.memory_stats() or {}).get("peak_bytes_in_use")
    yield {
        "who": "ours, per frame",
        "seconds": taken,
        "peak_bytes": measured,
        "predicted_bytes": report.peak(step.memory_analysis()),
        "compile_seconds": compiled,
        "flops": run.step_flops,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(dit)),
    }


def random_like(shapes: Any) -> Any:
    """Small random arrays of the given shapes, made on the device one after the other."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))
    draw = jax.jit(
        lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype),
        static_argnums=(1, 2),
    )
    return jax.tree.unflatten(
        tree,
        [draw(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)],
    )


def diffusers(part: Part, repeats: int) -> Iterator[dict]:
    """Times Diffusers' transformer: eager, each attention back end, compiled with the best one."""
    import torch
    from diffusers import WanTransformer3DModel  # pyright: ignore[reportPrivateImportUsage]

    run = planned(part)
    config: Any = run.dit
    _, f, h, w, c = run.latent_shape
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = WanTransformer3DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.head_dim,
            in_channels=config.in_dim,
            out_channels=config.out_dim,
            text_dim=config.text_dim,
            freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.num_layers,
        ).eval()
        latents = torch.randn(1, c, f, h, w)
        text = torch.randn(1, config.text_len, config.text_dim)
        timestep = torch.full((1,), 500, dtype=torch.int64)
    torch.set_default_dtype(usual)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wide = set(model._keep_in_fp32_modules or ())  # as from_pretrained leaves them
    for name, parameter in model.named_parameters():
        if wide & set(name.split(".")):
            parameter.data = parameter.data.float()

    def forward():
        with torch.no_grad():
            model(latents, timestep, text, return_dict=False)
        if on_gpu:
            torch.cuda.synchronize()

    def measured(who: str) -> dict:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        taken = PASSES * seconds(forward, repeats)
        memory = torch.cuda.max_memory_allocated() if on_gpu else None
        return {
            "who": who,
            "seconds": taken,
            "peak_bytes": memory,
            "flops": run.step_flops,
            "parameters": parameters,
        }

    eager: dict[str, dict] = {}
    for backend in ATTENTION if on_gpu else ATTENTION[:1]:
        try:
            model.set_attention_backend(backend)
            eager[backend] = measured(f"diffusers eager, {backend}")
        except Exception as error:  # each back end fails in its own way where it is missing
            print(f"{backend}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            yield eager[backend]
    if not on_gpu:
        return  # compiling takes longer than it can save
    best = min(eager, key=lambda backend: eager[backend]["seconds"])
    model.set_attention_backend(best)
    since = time.perf_counter()
    model.compile_repeated_blocks()
    forward()
    compiled = time.perf_counter() - since
    yield measured(f"diffusers compiled, {best}") | {"compile_seconds": compiled}


WORKERS = {"ours": ours, "diffusers": diffusers}


def in_process(worker: str, part: str, repeats: int, limit: float) -> list[dict]:
    """Rows of a worker run in a process of its own; a row with an `error` if it failed."""
    command = [sys.executable, "-m", "experiments.bench_dit", "--worker", worker]
    command += ["--part", part, "--repeats", str(repeats)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=limit
        )
        output, failed = done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else ""
        failed = True
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if failed and not any("error" in row for row in rows):
        rows.append({"who": worker, "error": "failed or out of time, see above"})
    return rows


def work(worker: str, part: str, repeats: int) -> int:
    """Prints the rows of a worker as they come, one JSON object per line."""
    do_without_jaxtyping()
    try:
        for row in WORKERS[worker](PARTS[part], repeats):
            print(json.dumps(row), flush=True)
    except ImportError as error:
        reason = f"peer not installed ({error.name})" if worker == "diffusers" else str(error)
        print(json.dumps({"who": worker, "error": reason}))
        return int(worker == "ours")
    return 0


def table(part: str, rows: list[dict]) -> Iterator[str]:
    """Lines of a Markdown table; the ratio is to our seconds."""
    peak = next((row["flops"] for row in rows if row["who"] == "matmul"), None)
    reference = next(
        (r["seconds"] for r in rows if r["who"].startswith("ours") and "seconds" in r), None
    )
    for row in rows:
        if row["who"] == "matmul":
            continue
        if "error" in row:
            yield f"| {part} | {row['who']} | {row['error']} | | | | | | |"
            continue
        rate = row["flops"] / row["seconds"]
        cells = [
            f"{row['seconds']:.4g}",
            f"{rate / 1e12:.4g}",
            f"{100 * rate / peak:.0f} %" if peak else "-",
            gib(row.get("peak_bytes")),
            gib(row.get("predicted_bytes")),
            f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else "-",
            f"{row['seconds'] / reference:.2f}" if reference else "-",
        ]
        yield f"| {part} | {row['who']} | " + " | ".join(cells) + " |"


def gib(size: int | None) -> str:
    """Bytes as GiB."""
    return "-" if size is None else f"{size / 2**30:.2f}"


def default_parts(parts: Iterable[str] = PARTS) -> list[str]:
    """All real parts, or the tiny one where there is only a CPU; asked in another process."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    on_cpu = done.stdout.split()[-1] == "cpu"
    return ["tiny"] if on_cpu else [name for name in parts if name != "tiny"]


def main() -> int:
    """Prints a table; returns 1 where ours failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=560, help="seconds for each process")
    parser.add_argument("--json", help="also write what was measured to this file")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.part[0], args.repeats)
    results = {}
    for part in args.part or default_parts():
        results[part] = [
            row for who in WORKERS for row in in_process(who, part, args.repeats, args.limit)
        ]
        first = results[part][0]
        if first["who"] == "matmul":
            print(f"{first['device']}, matmul peak {first['flops'] / 1e12:.4g} TFLOP/s (bfloat16)")
        print(
            "| part | who | s/step | TFLOP/s | of peak | peak GiB | predicted GiB | compile s "
            "| time / ours |\n|---|---|---|---|---|---|---|---|---|"
        )
        print("\n".join(table(part, results[part])), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=2)
    return int(any("error" in r for rows in results.values() for r in rows if r["who"] == "ours"))


if __name__ == "__main__":
    sys.exit(main())
