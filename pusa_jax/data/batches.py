"""What a run needs of its data, and data made of noise that needs no files."""

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

HostBatch = Mapping[str, Any]
"""This process's share of a batch: `latents` [b, F, h, w, C] and `text` [b, L, E] in bfloat16 or
float32, `id` with b strings."""


@runtime_checkable
class Batches(Protocol):
    """An endless iterator over batches whose order is a function of seed and step alone."""

    def __next__(self) -> HostBatch:
        """The next batch."""
        ...

    def state(self) -> dict[str, Any]:
        """The position behind the batches handed out so far, as plain values for JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position, whatever the number of processes that it was taken with."""
        ...


@runtime_checkable
class Clips(Protocol):
    """A set of encoded clips."""

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """[F, h, w, C] of the latents."""
        ...

    @property
    def text_shape(self) -> tuple[int, int]:
        """[L, E] of the captions' features."""
        ...

    @property
    def no_text(self) -> np.ndarray:
        """Features of the empty prompt, [L, E]."""
        ...

    def check_fits(
        self,
        clip_shape: tuple[int, int, int, int],
        text_shape: tuple[int, int],
        vae: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises a ValueError if a run expects other shapes or another VAE, if that is known."""
        ...

    def captions(self) -> Iterable[str]:
        """Every caption that a clip may have, as far as it has any."""
        ...

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def batches(self, batch_size: int, rows: Sequence[int], seed: int) -> Batches:
        """Batches in random order, of which this process wants rows `rows`."""
        ...

    def examples(self, count: int) -> HostBatch:
        """A fixed choice of clips, the same on every process."""
        ...

    def at(self, indices: Iterable[int]) -> HostBatch:
        """The clips with these numbers."""
        ...

    def part(self, indices: Sequence[int]) -> "Clips":
        """A set of these clips alone, which are numbered anew."""
        ...


class NoiseClips:
    """Clips of random latents and captions: for trying out and measuring a run without data.

    Each is drawn once and kept, so that measurements are of the run and not of the drawing.
    """

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int],
        text_shape: tuple[int, int],
        count: int = 64,
        *,
        classes: int = 0,
    ):
        """Takes [F, h, w, C], [L, E], the number of clips, and of classes that texts number."""
        self.classes = classes
        self.clip_shape, self.text_shape = clip_shape, text_shape
        self.no_text = np.zeros(text_shape, ml_dtypes.bfloat16)
        self._drawn = functools.cache(self._draw)
        self._numbers: Sequence[int] = range(count)

    def check_fits(
        self,
        clip_shape: tuple[int, int, int, int],
        text_shape: tuple[int, int],
        vae: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises a ValueError if a run expects other shapes; any VAE will do."""
        has, wants = (self.clip_shape, self.text_shape), (clip_shape, text_shape)
        if has != wants:
            raise ValueError(f"the noise has shapes {has}, the run wants {wants}.")

    def captions(self) -> Iterable[str]:
        """None: features are drawn without one."""
        return ()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._numbers)

    def batches(self, batch_size: int, rows: Sequence[int], seed: int) -> "NoiseBatches":
        """Batches in random order."""
        return NoiseBatches(self, batch_size, rows, seed)

    def examples(self, count: int) -> HostBatch:
        """The first clips."""
        return self.at(range(count))

    def at(self, indices: Iterable[int]) -> HostBatch:
        """The clips with these numbers."""
        drawn = [self._numbers[i] for i in indices]
        return {
            "latents": np.stack([self._drawn(i, self.clip_shape) for i in drawn]),
            "text": np.stack([self._drawn(i, self.text_shape) for i in drawn]),
            "id": [f"noise-{i}" for i in drawn],
        }

    def part(self, indices: Sequence[int]) -> "NoiseClips":
        """A set of these clips alone, which are numbered anew."""
        part = copy.copy(self)
        part._numbers = [self._numbers[i] for i in indices]
        return part

    def _draw(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng((index, len(shape)))
        if self.classes and shape == self.text_shape:
            return rng.integers(self.classes, size=shape).astype(ml_dtypes.bfloat16)
        drawn = rng.standard_normal(shape, np.float32)
        return drawn.astype(ml_dtypes.bfloat16)


class NoiseBatches:
    """Batches of `NoiseClips`: every pass over the clips has its own order."""

    def __init__(self, clips: NoiseClips, batch_size: int, rows: Sequence[int], seed: int):
        """Starts at step 0, see `NoiseClips.batches`."""
        self._clips, self._size, self._rows, self._seed = clips, batch_size, rows, seed
        self._step = 0
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __next__(self) -> HostBatch:
        """The next batch."""
        first = self._step * self._size
        self._step += 1
        return self._clips.at([self._number(first + row) for row in self._rows])

    def _number(self, place: int) -> int:
        epoch, offset = divmod(place, len(self._clips))
        return int(self._order(epoch)[offset])

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._clips))

    def state(self) -> dict[str, Any]:
        """The step."""
        return {"step": self._step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a step."""
        self._step = int(state["step"])
