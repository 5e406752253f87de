"""Single calls of the original schedulers against the same move along our noise tables."""

import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.diffusion.flow import NoiseTable, interpolate, pusa_schedule, velocity_target
from pusa_jax.diffusion.sampling import denoise
from pusa_jax.diffusion.timesteps import LevelConfig, level_table
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout

LIMIT = 5e-6


def check(golden: Golden, case: dict):
    meta = golden.meta
    schedule = pusa_schedule(meta["steps"], meta["shift"])
    sample, noise = (to_house_layout(golden.tensor(f"in.{x}")) for x in ("sample", "noise"))
    times = golden.tensor("in.timestep_pf")

    def entry(timesteps):
        """The schedule's entry nearest to each timestep, as the original looks it up."""
        gaps = np.abs(schedule[:-1] * np.float32(1000) - np.asarray(timesteps)[..., None])
        return gaps.argmin(-1)

    def levels(sigmas):
        return np.broadcast_to(sigmas, times.shape)

    def moved(now, later, velocity):
        """The sample after one step of each frame from one level to another."""
        rows = np.concatenate([levels(now), levels(later)])
        table = NoiseTable(
            sigmas=rows,
            timesteps=np.ones_like(times),
            step_sizes=rows[1:] - rows[:-1],
            levels=rows[:-1].max(1),
        )
        return denoise(lambda x, t: velocity, sample, table)

    drawn = {
        suffix: level_table(LevelConfig(shift=meta["shift"], rounding=rounding)).at(
            jnp.asarray(golden.tensor("in.train_ids"))
        )
        for rounding, suffix in (("none", ""), ("bfloat16", "_bf16t"))
    }
    by_frame, by_largest, third = entry(times), entry(times.max()), 2
    for scheduler, now in (("pusa", by_frame), ("pusa_v2v", by_largest)):
        here = moved(schedule[now], schedule[now + 1], noise)
        ours = {
            "add_noise_1d": interpolate(sample, noise, jnp.asarray(levels(schedule[1]))),
            "add_noise_2d": interpolate(sample, noise, jnp.asarray(schedule[by_frame])),
            "step_1d": moved(schedule[third], schedule[third + 1], noise),
            "step_2d": here,
            "step_2d_final": here,
            "add_noise_cond": interpolate(
                sample, noise, jnp.asarray(levels(np.float32(meta["cond_mult"]) * schedule[0]))
            )[:, :1],
            "train_target": velocity_target(sample, noise),
        }
        for suffix, draw in drawn.items():
            ours[f"train_t{suffix}"] = draw.timesteps
            ours[f"train_weight{suffix}"] = draw.weights[0]
            ours[f"train_noisy{suffix}"] = interpolate(sample, noise, draw.sigmas)
        for k, (frames, factors) in enumerate(meta["cond"]):
            if not golden.has(told := f"out.{scheduler}.step_cond{k}_t"):
                continue
            multipliers = np.ones(times.shape[1], np.float32)
            multipliers[frames] = factors
            at = int(entry(golden.tensor(told).max()))
            row = noise_table(meta["steps"], meta["shift"], multipliers, truncate=True)
            row = row.part(at, at + 1)
            ours[f"step_cond{k}"] = denoise(lambda x, t: noise, sample, row)
            ours[f"step_cond{k}_t"] = row.timesteps
        for what, value in ours.items():
            if golden.has(name := f"out.{scheduler}.{what}"):
                value = from_house_layout(value) if np.ndim(value) == 5 else value
                yield Comparison(what, relative_error(value, golden.tensor(name)), LIMIT)

        # The velocity that leads from a clean clip (here `noise`) to the sample leads back to it.
        velocity = to_house_layout(golden.tensor(f"out.{scheduler}.return_to_timestep_2d"))
        back = moved(schedule[by_frame], np.float32(0), velocity)
        yield Comparison("return_to_timestep_2d", relative_error(back, noise), LIMIT)


CHECKS = {"sched_misc": check}
