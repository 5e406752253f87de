"""Does a sharded training step compute what one device computes? A table of meshes and errors.

  python -m experiments.train_matrix

Runs on 16 simulated CPU devices, in under ten minutes on 2 cores, and exits with code 1 when loss,
gradient norm or gradients of the step that `pusa-jax train` takes differ from those of one device,
where the batch is computed at once, by more than 1e-5 (relative, float32). The 15 tokens of a frame
are divided by no mesh; half of the batches are computed in two parts, half of the meshes hold the
weights whole. Gradients are read off
AdamW's first moment, which is a tenth of them after one step.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import jax
import numpy as np
from flax import nnx

from pusa_jax.data.batches import NoiseClips
from pusa_jax.devices.sharding import AXES, describe, make_mesh
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.wan.config import BLOCK_LINEARS, DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import random_module, relative_error
from pusa_jax.training.layout import Placement, placement, shardings_of
from pusa_jax.training.loop import jit_step
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import OptimizerConfig, TrainState, fresh_state
from pusa_jax.training.step import Frozen, Recipe, Sharding
from pusa_jax.weights.leaves import leaves_of

LIMIT = 1e-5
BATCH = 16
CLIPS = NoiseClips((3, 6, 10, 4), (6, 12))
DIT = DiTConfig(
    dim=96,
    ffn_dim=64,
    num_heads=12,
    num_layers=2,
    in_dim=4,
    out_dim=4,
    text_dim=12,
    text_len=6,
    freq_dim=16,
    remat="full",
)
ADAPTERS = {"lora": AdapterConfig(rank=4, alpha=8.0, targets=BLOCK_LINEARS), "full": None}
MESHES = {
    8: ((8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 4, 1), (2, 1, 4), (2, 2, 2)),
    16: ((16, 1, 1), (1, 16, 1), (4, 4, 1), (1, 4, 4), (4, 2, 2)),
}
"""Devices -> sizes of data, context and tensor."""


def recipe(trained: str, parts: int, sharding: Sharding) -> Recipe:
    """What is trained, in how many parts a batch is computed, and where weights lie."""
    return Recipe(
        family=WAN21,
        dit=DIT,
        adapter=ADAPTERS[trained],
        objective=ObjectiveConfig(text_dropout=0.2),
        optimizer=OptimizerConfig(clip_norm=1.0, ema_decay=0.9, accumulate=parts),
        steps=10,
        sharding=sharding,
    )


class Step(NamedTuple):
    """The first step of a run: where everything lies, what went in and what came out."""

    placed: Placement
    before: TrainState
    frozen: Frozen
    after: TrainState
    metrics: Mapping[str, jax.Array]


def first_step(trained: str, sizes: Sequence[int], parts: int, sharding: Sharding = "fsdp") -> Step:
    """Takes the first step on a mesh of sizes (data, context, tensor)."""
    of, devices = recipe(trained, parts, sharding), jax.devices()[: math.prod(sizes)]
    mesh = make_mesh(dict(zip(AXES, sizes, strict=True)), devices)
    base = leaves_of(random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0))))
    with jax.set_mesh(mesh):
        placed = placement(of, mesh, BATCH, CLIPS.clip_shape, CLIPS.text_shape)
        params = base
        if of.adapter is not None:  # no factor may be zero, or the other has no gradient
            rng = np.random.default_rng(1)
            shapes = placed.state.params.items()
            params = {p: 0.3 * rng.standard_normal(leaf.shape, np.float32) for p, leaf in shapes}
        state = fresh_state(
            jax.tree.map(jax.numpy.asarray, params), of.optimizer, of.steps, jax.random.key(1)
        )
        frozen = Frozen(base={} if of.adapter is None else base, no_text=CLIPS.no_text[None])
        state = jax.device_put(state, shardings_of(placed.state))
        frozen = jax.device_put(frozen, shardings_of(placed.frozen))
        batch = placed.global_batch(next(CLIPS.batches(BATCH, placed.rows(), 0)))
        return Step(placed, state, frozen, *jit_step(of, placed)(state, frozen, batch))


def first_moments(opt_state) -> Mapping[str, jax.Array]:
    """AdamW's, wherever it stands in a chain."""
    (adam,) = (
        part
        for part in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(part, "mu")
    )
    return adam.mu


def results(step: Step) -> dict[str, np.ndarray]:
    """What has to agree: losses, gradient norm, and all gradients one behind the other."""
    moments = first_moments(step.after.opt_state)
    return {
        "losses": np.asarray(step.metrics["losses"]),
        "gradient norm": np.asarray(step.metrics["grad_norm"]),
        "gradients": np.concatenate([np.ravel(moments[path]) for path in sorted(moments)]),
    }


@functools.cache
def alone(trained: str) -> dict[str, np.ndarray]:
    """The results of one device, its batch computed at once."""
    return results(first_step(trained, (1, 1, 1), 1))


def errors(step: Step, trained: str) -> dict[str, float]:
    """Relative errors of a mesh's step against that of one device."""
    expected = alone(trained)
    return {what: relative_error(x, expected[what]) for what, x in results(step).items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    jax.config.update("jax_num_cpu_devices", max(MESHES))
    jax.config.update("jax_default_matmul_precision", "highest")
    print(
        "| devices | mesh | trained | sharding | parts | losses | gradient norm | gradients "
        "| seconds |\n|---|---|---|---|---|---|---|---|---|"
    )
    worst = 0.0
    for count, meshes in MESHES.items():
        for i, sizes in enumerate(meshes):
            for j, trained in enumerate(ADAPTERS):
                parts, since = 1 + (i + j) % 2 * (BATCH % (2 * sizes[0]) == 0), time.perf_counter()
                sharding = get_args(Sharding)[i % 2]
                found = errors(first_step(trained, sizes, parts, sharding), trained)
                worst = max(worst, *found.values())
                cells = [str(count), describe(sizes), trained, sharding, str(parts)]
                cells += [f"{error:.1e}" for error in found.values()]
                cells.append(f"{time.perf_counter() - since:.1f}")
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nworst error {worst:.1e}, limit {LIMIT:g}: {'ok' if worst <= LIMIT else 'TOO MUCH'}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
