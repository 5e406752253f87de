"""FVD of generated videos against real ones, as FVDM and Latte report it.

real videos      --clips--> I3D --> features on disk --> statistics --+
generated videos --clips--> I3D --> features on disk --> statistics --+--> Fréchet distance

Several processes share the clips: each computes every n-th, and all add their sums.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pusa_jax.devices import processes
from pusa_jax.evaluation import clips, kept
from pusa_jax.evaluation.clips import Clip
from pusa_jax.evaluation.features import Extractor
from pusa_jax.evaluation.frechet import Statistics, merged, nothing, statistics
from pusa_jax.evaluation.i3d import LEAST_FRAMES
from pusa_jax.files import fingerprints
from pusa_jax.progress import Progress, no_progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class FVDConfig:
    """What is compared; defaults are those of `fvd2048_16f` in FVDM (fvdm.md §6).

    Attributes:
      clips: generated clips.
      real_clips: real clips; None is as many as generated ones.
      frames: of a clip.
      size: pixels of height and width that frames are brought to before the network resizes them.
      real_interval: from one frame of a real clip to the next, in frames of its video.
      generated_interval: the same of generated clips.
      seed: decides where in their videos real clips begin.
    """

    clips: int = 2048
    real_clips: int | None = None
    frames: int = 16
    size: int = 256
    real_interval: int = 3
    generated_interval: int = 1
    seed: int = 0

    def __post_init__(self):
        least = {"clips": 2, "real_clips": 2, "frames": LEAST_FRAMES, "size": 32, "seed": 0}
        least |= {"real_interval": 1, "generated_interval": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, got {value}.")

    @property
    def name(self) -> str:
        """What the papers call it."""
        return f"fvd{self.clips}_{self.frames}f"

    def side(self, what: str) -> "Side":
        """What is taken of "real" or "generated" videos."""
        is_real = what == "real"
        return Side(
            what=what,
            clips=self.real_clips or self.clips if is_real else self.clips,
            frames=self.frames,
            size=self.size,
            interval=self.real_interval if is_real else self.generated_interval,
            seed=self.seed if is_real else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """What is taken of one of the two folders; see `FVDConfig`."""

    what: str
    clips: int
    frames: int
    size: int
    interval: int
    seed: int | None

    def choose(self, folder: Path, on_progress: Progress = no_progress) -> list[Clip]:
        """The clips of a folder; see `clips.choose`."""

        def on_video(done: int) -> None:
            on_progress(f"{self.what} videos", done, self.clips)

        return clips.choose(
            folder,
            self.clips,
            frames=self.frames,
            interval=self.interval,
            seed=self.seed,
            on_progress=on_video,
        )


def list_of(chosen: list[Clip]) -> str:
    """Fingerprint of which clips were chosen, whatever files hold them."""
    return fingerprints.of_list((clip.video.name, str(clip.begin)) for clip in chosen)


def statistics_of(
    side: Side,
    chosen: list[Clip],
    extractor: Extractor,
    work: Path,
    on_progress: Progress = no_progress,
) -> Statistics:
    """Statistics of the clips of one side, those of all processes together.

    Features that an earlier run has left in `work` are not computed again.

    Args:
      side: what the clips are.
      chosen: the clips, the same in all processes.
      extractor: the network.
      work: folder in which features are kept.
      on_progress: told about the stage "real clips" or "generated clips".

    Raises:
      ValueError: a video is damaged, its features are not finite, or another process computes them.
      OSError: the folder cannot be written.
    """
    states = [(clip.video.name, f"{clip.begin} {clip.video.state()}") for clip in chosen]
    settings = dataclasses.asdict(side) | {
        "network": extractor.fingerprint,
        "videos": fingerprints.of_list(states),
    }
    index, count = jax.process_index(), jax.process_count()
    mine = range(index, len(chosen), count)
    read = functools.partial(_read, chosen, side)
    with kept.opened(_file_of(work, settings, index, count), settings, extractor.width) as store:
        missing = [number for number in mine if number not in store.features]
        done = len(mine) - len(missing)
        on_progress(f"{side.what} clips", done, len(mine))
        for number, features in extractor.over(missing, read):
            store.append(number, features)
            done += 1
            on_progress(f"{side.what} clips", done, len(mine))
        own = [store.features[number] for number in mine]
    return _of_all(statistics(np.stack(own)) if own else nothing(extractor.width))


def _read(chosen: list[Clip], side: Side, number: int) -> np.ndarray:
    return clips.read(chosen[number], side.frames, side.interval, side.size)


def _file_of(work: Path, settings: Mapping[str, Any], index: int, count: int) -> Path:
    """Where features with these settings are kept, by one process of several."""
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[: fingerprints.SHORT]
    share = f"-{index}-of-{count}" if count > 1 else ""
    return work / f"{settings['what']}-{digest}{share}{kept.ENDING}"


def _of_all(own: Statistics) -> Statistics:
    """The statistics of all processes together, in every process."""
    counts = processes.gathered(np.array([own.count]))
    totals, products = processes.gathered(own.total), processes.gathered(own.products)
    parts = zip(counts[:, 0], totals, products, strict=True)
    return merged(Statistics(count=int(n), total=t, products=p) for n, t, p in parts)
