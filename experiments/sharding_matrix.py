"""Does a sharded DiT compute what one device computes? A table of meshes, errors and seconds.

  python -m experiments.sharding_matrix

Runs on 16 simulated CPU devices, in under ten minutes on 2 cores, and exits with code 1 when a
forward pass differs from that of one device by more than 1e-5 (relative, float32). Token counts are
chosen so that no mesh divides them; 12 and 40 heads are those of the published presets.
"""

import argparse
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Iterator, Sequence

import jax
from flax import nnx
from jax.sharding import Mesh

from pusa_jax.devices.sharding import AXES, describe, make_mesh, shardings
from pusa_jax.models.wan import sharding
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import relative_error

LIMIT = 1e-5
HEAD_DIM = 6
MESHES = {
    8: ((8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 4, 1), (4, 2, 1), (2, 1, 4), (1, 2, 4), (2, 2, 2)),
    16: ((16, 1, 1), (1, 16, 1), (4, 4, 1), (2, 8, 1), (1, 4, 4), (1, 8, 2), (4, 2, 2), (2, 2, 4)),
}
"""Devices -> sizes of data, context and tensor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One forward pass: a mesh, a number of heads and a grid of latents [B, F, H, W]."""

    sizes: tuple[int, int, int]
    heads: int
    latents: tuple[int, int, int, int]

    @property
    def scheme(self) -> str:
        """How self-attention exchanges tokens."""
        _, context, tensor = self.sizes
        ulysses = math.gcd(self.heads // tensor, context)
        parts = {"Ulysses": ulysses, "ring": context // ulysses}
        return " x ".join(f"{name} {n}" for name, n in parts.items() if n > 1) or "none"


def cases() -> Iterator[Case]:
    """Every mesh with 12 and 40 heads; the 15 tokens of a frame are divided by none of them."""
    for meshes in MESHES.values():
        for sizes in meshes:
            for heads in (12, 40):
                yield Case(sizes=sizes, heads=heads, latents=(2, 3, 6, 10))


@functools.cache
def build(heads: int) -> WanDiT:
    """A DiT of two layers with so many heads."""
    config = DiTConfig(
        dim=heads * HEAD_DIM,
        ffn_dim=heads * 8,
        num_heads=heads,
        num_layers=2,
        text_dim=24,
        text_len=7,
        freq_dim=32,
    )
    return WanDiT(config, rngs=nnx.Rngs(0))


def inputs(latents: Sequence[int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Latents, one timestep per frame, and text."""
    keys = jax.random.split(jax.random.key(1), 3)
    return (
        jax.random.normal(keys[0], (*latents, 16)),
        1000 * jax.random.uniform(keys[1], latents[:2]),
        jax.random.normal(keys[2], (latents[0], 7, 24)),
    )


@jax.jit
def forward(dit: WanDiT, latents: jax.Array, timesteps: jax.Array, text: jax.Array) -> jax.Array:
    """Velocity, text projection included."""
    return dit(latents, timesteps, dit.project_text(text))


def on_mesh(mesh: Mesh, heads: int, latents: Sequence[int]) -> jax.Array:
    """The velocity computed with weights laid out by the rules."""
    dit = build(heads)
    with jax.set_mesh(mesh):
        return forward(jax.device_put(dit, shardings(dit, sharding.DIT, mesh)), *inputs(latents))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    jax.config.update("jax_num_cpu_devices", max(MESHES))
    jax.config.update("jax_default_matmul_precision", "highest")
    print("| devices | mesh | heads | tokens | exchange | error | seconds |")
    print("|---|---|---|---|---|---|---|")
    expected, worst = {}, 0.0
    for case in cases():
        if case.heads not in expected:
            expected[case.heads] = forward(build(case.heads), *inputs(case.latents))
        count, since = math.prod(case.sizes), time.perf_counter()
        mesh = make_mesh(dict(zip(AXES, case.sizes, strict=True)), jax.devices()[:count])
        error = relative_error(on_mesh(mesh, case.heads, case.latents), expected[case.heads])
        worst = max(worst, error)
        _, f, h, w = case.latents
        print(
            f"| {count} | {describe(case.sizes)} | {case.heads} | {f * h * w // 4} | {case.scheme} "
            f"| {error:.1e} | {time.perf_counter() - since:.1f} |",
            flush=True,
        )
    print(f"\nworst error {worst:.1e}, limit {LIMIT:g}: {'ok' if worst <= LIMIT else 'TOO MUCH'}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
