"""What decides a clip besides weights, prompt and given frames."""

import dataclasses
import math

MAX_FPS = 240
"""Frames per second; more is a mistake, and from a million on the encoder fails."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Size, steps and guidance of a run. The defaults are those published for Pusa V1.0 on Wan2.1.

    Attributes:
      height, width: pixels; what they must be divisible by is the model's.
      num_frames: pixel frames, stride * k + 1 (Wan: 4k + 1).
      fps: frames per second of the file.
      num_steps: solver steps S.
      guidance_scale: 1 is off.
      shift: of the schedule towards noise; 1 leaves the levels evenly spaced.
      seed: of the initial noise, 0 to 2**64 - 1; up to 2**32 - 1 it means what it always did.
      original_timesteps: tell the DiT timesteps rounded as the original does; else exact ones.
      tiled: encode and decode in overlapping tiles, as Pusa's pipelines do by default. Changes
        results slightly, because the VAE's attention then sees one tile at a time.
    """

    height: int = 720
    width: int = 1280
    num_frames: int = 81
    fps: int | float = 16
    num_steps: int = 30
    guidance_scale: float = 3.0
    shift: float = 5.0
    seed: int = 0
    original_timesteps: bool = True
    tiled: bool = True

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {self.num_steps}.")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"the guidance scale must be a number, got {self.guidance_scale}.")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a positive number, got {self.shift}.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"the seed must be 0 to {2**64 - 1}, got {self.seed}.")
        if not 1 <= self.fps <= MAX_FPS:
            raise ValueError(f"fps must be 1 to {MAX_FPS}, got {self.fps}.")
