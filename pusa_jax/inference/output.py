"""What a run gives, and how long its stages took."""

import dataclasses
import time
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from pusa_jax.files import fingerprints

Stage = Literal["load", "text", "encode", "compile", "denoise", "decode"]


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Output:
    """A finished run.

    Attributes:
      frames: RGB [T, H, W, 3].
      latents: final latents [1, F, h, w, C], float32.
      seed: of the noise.
      settings: what was used, prompts included, as plain values.
      passes: forwards of the denoiser; a guided step has two.
      seconds: wall time of each stage.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    latents: np.ndarray
    seed: int
    settings: dict[str, Any]
    passes: int
    seconds: dict[str, float]

    def __repr__(self) -> str:
        """In short: no arrays."""
        frames, height, width, _ = self.frames.shape
        return (
            f"Output({frames} frames of {height}x{width}, latents {[*self.latents.shape]}, "
            f"seed {self.seed}, {sum(self.seconds.values()):.1f} s)"
        )

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        from pusa_jax.media.shown import as_html

        more = {"seed": self.seed, "passes": self.passes, "seconds": sum(self.seconds.values())}
        return as_html(self.frames, self.settings, more)

    def latents_sha256(self) -> str:
        """Fingerprint of the latents, to tell whether two runs agree to the last bit."""
        return fingerprints.of_latents(self.latents)


class Stopwatch:
    """Wall time per stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """Books the time since the last lap on a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._since, 3)
        self._since = now
