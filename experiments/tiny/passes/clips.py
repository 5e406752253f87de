"""Clips of a task that are sampled again and again in other ways, from the same noise."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.tiny.measuring import Row, Task, encoded, fresh, given_frames, observe, summary
from experiments.tiny_world.evaluate import Model
from pusa_jax.demo.world import Scene, render
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.conditioning import place
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.process import SOLVERS
from pusa_jax.diffusion.rows import FINE, rows_taken
from pusa_jax.diffusion.sampling import rows_of, sample, start
from pusa_jax.inference.settings import count_passes, guidance_scales, new_functions
from pusa_jax.inference.step import jitted_step, prepare_prompts
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.schedule import noise_table

SHIFT, GUIDANCE = 5.0, 2.0
LatentsOnHost = Float[np.ndarray, "B F h w C"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one task.

    Attributes:
      model: samples them.
      scenes: what they show.
      given: pixel frames that are given.
      clean: given latents in their places, [B, F, h, w, C].
      multipliers: one per latent frame.
      noise: as `clean`.
      prepared: the prompts, as the compiled step takes them.
    """

    model: Model
    scenes: list[Scene]
    given: tuple[int, ...]
    clean: jax.Array
    multipliers: Float[np.ndarray, " F"]
    noise: jax.Array
    prepared: Any

    def table(self, num_steps: int) -> NoiseTable:
        """Even rows, exact timesteps."""
        return noise_table(num_steps, SHIFT, self.multipliers)

    def sampled(
        self, solver: str, num_steps: int, rows: Any = "even", guidance_until: float = 1.0
    ) -> tuple[LatentsOnHost, int]:
        """Latents by the product's own table, rows and step, and the passes that they took."""
        settings = SamplingConfig(
            num_steps=num_steps, guidance_scale=GUIDANCE, guidance_until=guidance_until
        )
        table = self.table(num_steps)
        if rows != "even":
            table = self.table(FINE).thinned(rows_taken(rows, num_steps))
        served = [0] * num_steps
        scales = guidance_scales(settings, served)
        steps = rows_of(table, SOLVERS[solver], new_functions(served, scales))
        program = step_of(solver)
        mesh = make_mesh({}, jax.local_devices()[:1])

        def step(state: Any, i: int) -> Any:
            with jax.set_mesh(mesh):
                row = jax.tree.map(jnp.asarray, steps[i])
                return program(self.model.dit, self.prepared, jnp.float32(scales[i]), state, row)

        state = SOLVERS[solver].init(start(self.clean, self.noise, table))
        return np.asarray(sample(step, state, num_steps).latents), count_passes(scales)

    def seen(self, latents: LatentsOnHost) -> Row:
        """What the stick says of the clips."""
        videos = self.model.decode(latents)
        return summary(
            [observe(v, render(s), s, self.given) for v, s in zip(videos, self.scenes, strict=True)]
        )

    def errors(self, latents: LatentsOnHost, truth: LatentsOnHost) -> Float[np.ndarray, " B"]:
        """Distance to the truth by its size, of each clip, over frames that are not given."""
        free = self.multipliers == 1
        away, size = (latents - truth)[:, free], truth[:, free]
        axes = (1, 2, 3, 4)
        return np.sqrt(np.square(away).sum(axes) / np.square(size).sum(axes))


@functools.cache
def step_of(solver: str) -> Any:
    """The compiled step of the product."""
    return jitted_step(WAN21, make_mesh({}, jax.local_devices()[:1]), SOLVERS[solver])


def batches(model: Model, task: Task, count: int, size: int, seed: int) -> Sequence[Batch]:
    """Fresh scenes, what is given of them, their prompts and noise."""
    scenes, made = fresh(seed, count), []
    for first in range(0, count, size):
        part = scenes[first : first + size]
        given = [task(render(scene)) for scene in part]
        key = jax.random.fold_in(jax.random.key(seed), first)
        cells = part[0].size // 8
        noise = jax.random.normal(key, (size, 9, cells, cells, model.dit.config.in_dim))
        clean, multipliers = place(encoded(model, given), noise)
        prompt = jnp.asarray(np.stack([model.text(scene.caption) for scene in part]))
        nothing = jnp.asarray(np.stack([model.text("")] * size))
        with jax.set_mesh(make_mesh({}, jax.local_devices()[:1])):
            prepare = jax.jit(prepare_prompts, static_argnums=0)
            prepared = prepare(WAN21, model.dit, (prompt, nothing))
        made.append(
            Batch(
                model=model,
                scenes=part,
                given=given_frames(given[0]),
                clean=clean,
                multipliers=np.asarray(multipliers),
                noise=noise,
                prepared=prepared,
            )
        )
    return made
