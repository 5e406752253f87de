"""What decides a clip besides weights, prompt and given frames."""

import dataclasses
import itertools
import math
from typing import Literal

from pusa_jax.diffusion.rows import FINE, rows_taken

Solver = Literal["euler", "ab2", "unipc", "dpm++", "ddim", "ddpm"]

Rows = Literal["even", "front"] | tuple[int, ...]
"""Which rows of a table a run takes, see `diffusion.rows`."""

Tiling = bool | Literal["original"]
"""Overlapping tiles without seams, none, or the original's where those are others."""

MAX_FPS = 240
"""Frames per second; more is a mistake, and from a million on the encoder fails."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeaCache:
    """A cache of Pusa's own pipelines, for parity with them; fewer rows are better per pass.

    Attributes:
      threshold: change that adds up before the blocks are computed again.
      polynomial: name of the model that it was fitted to; None goes by the network's width.
      original: the cache goes on when the expert changes, as the original's does.
    """

    threshold: float
    polynomial: str | None = None
    original: bool = False

    def __post_init__(self):
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"TeaCache's threshold must be above 0, got {self.threshold}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Size, steps and guidance of a run. The defaults are those published for Pusa V1.0 on Wan2.1.

    Attributes:
      height, width: pixels; what they must be divisible by is the model's.
      num_frames: pixel frames, stride * k + 1 (Wan: 4k + 1).
      fps: frames per second of the file.
      num_steps: solver steps S.
      guidance_scale: 1 is off.
      low_guidance_scale: of the low-noise expert, where a model has one; None is the same.
      guidance_schedule: guidance scale of every step, in place of the others; None is one for all.
      guidance_until: share of the steps that are guided, from the first on; the others are made of
        the prompt's pass alone.
      boundary: noise level, 0 to 1, below which the low-noise expert takes over; None is the
        model's.
      solver: of the model's process: DDIM and ancestral sampling (ddpm) of variance-preserving
        diffusion, the others of flow matching, where all but Euler's look back at earlier steps;
        UniPC and DPM++ along one level for all frames, ab2 along each frame's own.
      rows: "even" is the model's schedule of `num_steps` steps; "front" and a list take as many of
        the rows of a finer one, see `diffusion.rows`.
      teacache: where the blocks of a step are left out; None is nowhere.
      levels: noise level of every step, falling, in place of the model's schedule; a run ends at 0.
      shift: of the schedule towards noise; 1 leaves the levels evenly spaced.
      seed: of the initial noise, 0 to 2**64 - 1; up to 2**32 - 1 it means what it always did.
      original_timesteps: tell the DiT timesteps rounded as the original does; else exact ones.
      original_conditions: put given frames in their places as the original does, even where that is
        not how the network sees others: those of Pusa V0.5 are not normalised.
      tiled: encode and decode in overlapping tiles, as Pusa's pipelines do by default. Changes
        results slightly, because the VAE's attention then sees one tile at a time. "original":
        decode in the tiles of the original, those of Pusa V0.5 have seams.
    """

    height: int = 720
    width: int = 1280
    num_frames: int = 81
    fps: int | float = 16
    num_steps: int = 30
    guidance_scale: float = 3.0
    low_guidance_scale: float | None = None
    guidance_schedule: tuple[float, ...] | None = None
    guidance_until: float = 1.0
    boundary: float | None = None
    solver: Solver = "euler"
    rows: Rows = "even"
    teacache: TeaCache | None = None
    levels: tuple[float, ...] | None = None
    shift: float = 5.0
    seed: int = 0
    original_timesteps: bool = True
    original_conditions: bool = True
    tiled: Tiling = True

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {self.num_steps}.")
        schedule = self.guidance_schedule
        if schedule is not None and len(schedule) != self.num_steps:
            raise ValueError(
                f"a guidance schedule needs a scale for each of the {self.num_steps} steps, got "
                f"{len(schedule)}."
            )
        if self.levels is not None:
            falls = all(a > b for a, b in itertools.pairwise((*self.levels, 0.0)))
            if len(self.levels) != self.num_steps or not falls or self.levels[0] > 1:
                raise ValueError(
                    f"levels must be {self.num_steps} falling numbers in (0, 1], one for each "
                    f"step, got {', '.join(map(str, self.levels[:40]))}."
                )
        if self.rows != "even":
            if self.levels is not None:
                raise ValueError("give levels of one's own or rows of the model's, not both.")
            rows_taken(self.rows, self.num_steps)
        if not 0 <= self.guidance_until <= 1:
            raise ValueError(
                f"guidance until a share of the steps needs 0 to 1, got {self.guidance_until}."
            )
        for scale in (self.guidance_scale, self.low_guidance_scale, *(schedule or ())):
            if scale is not None and not math.isfinite(scale):
                raise ValueError(f"the guidance scale must be a number, got {scale}.")
        if self.boundary is not None and not 0 <= self.boundary <= 1:
            raise ValueError(f"the boundary between experts must be 0 to 1, got {self.boundary}.")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a positive number, got {self.shift}.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"the seed must be 0 to {2**64 - 1}, got {self.seed}.")
        if not 1 <= self.fps <= MAX_FPS:
            raise ValueError(f"fps must be 1 to {MAX_FPS}, got {self.fps}.")

    @property
    def full_passes(self) -> int:
        """Forwards of the denoiser along all rows of the table, guided to the end."""
        rows = self.num_steps if self.rows == "even" else FINE
        return rows * (1 + self.is_guided)

    @property
    def is_guided(self) -> bool:
        """Whether any step asks for the negative prompt as well."""
        if not self.guidance_until:
            return False
        scales = self.guidance_schedule or (self.guidance_scale, self.low_guidance_scale)
        return any(scale not in (None, 1) for scale in scales)


def in_few_steps(settings: SamplingConfig) -> SamplingConfig:
    """The settings that LightX2V's adapters were distilled for; size and seed stay as they are."""
    return dataclasses.replace(
        settings,
        num_steps=4,
        guidance_scale=1.0,
        low_guidance_scale=None,
        guidance_schedule=None,
        guidance_until=1.0,
        shift=5.0,
        solver="euler",
        rows="even",
        teacache=None,
    )
