"""Features of clips by the I3D network: weights from a file, one compiled program, batches."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt8

from pusa_jax.convert import i3d as table
from pusa_jax.convert.tables import load
from pusa_jax.evaluation.i3d import I3D, SIZE, I3DConfig, build
from pusa_jax.files import fingerprints
from pusa_jax.weights.leaves import abstract, fill, shapes_for

WHERE = (
    "they are the file i3d_torchscript.pt that the metric of StyleGAN-V "
    "(github.com/universome/stylegan-v) names; nothing is downloaded here"
)
"""Where the weights come from."""

BATCH = 8
"""Clips that are computed together."""

READERS = 4
"""Clips that are read at a time."""

Item = TypeVar("Item")


class Extractor:
    """The network with its weights.

    Attributes:
      config: channel sizes, as the file has them.
      fingerprint: of the weights.
    """

    def __init__(self, path: Path, *, size: int = SIZE):
        """Reads the weights.

        Args:
          path: of the file.
          size: pixels of height and width that the network sees.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is damaged, or holds another network.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no I3D weights at {path}: {WHERE}.")
        try:
            source = table.open_i3d(path)
            self.config = I3DConfig.of_channels(table.channels_of(source), size)
            naming = table.naming_of(source)
            rules, ignored = table.rules(*naming), table.ignored(*naming)
            shapes = shapes_for(build, self.config)
            leaves = load(source, rules, shapes, ignored=ignored, dtype="float32")
        except ValueError as error:
            raise ValueError(_named(error, path)) from None
        self.fingerprint = fingerprints.of_weights(leaves)
        self._network: I3D = fill(abstract(build, self.config), leaves)

    @property
    def width(self) -> int:
        """Number of features of a clip."""
        return self.config.classes

    def __call__(self, frames: UInt8[np.ndarray, "B T H W 3"]) -> Float32[np.ndarray, "B D"]:
        """The features of some clips."""
        return np.asarray(_scores(self._network, frames))

    def over(
        self, items: Sequence[Item], read: Callable[[Item], UInt8[np.ndarray, "T H W 3"]]
    ) -> Iterator[tuple[Item, Float32[np.ndarray, "D"]]]:
        """The features of many clips, one after the other; others are read meanwhile.

        Args:
          items: what clips are read from.
          read: reads the frames of one; runs in threads.
        """
        size = min(BATCH, len(items))
        for batch in _in_batches(_read_ahead(items, read), size):
            frames = [frames for _, frames in batch]
            frames += frames[-1:] * (size - len(frames))  # one program for all batches
            yield from zip([item for item, _ in batch], self(np.stack(frames)), strict=False)


@functools.partial(jax.jit)
def _scores(network: I3D, frames: UInt8[Array, "B T H W 3"]) -> Float32[Array, "B D"]:
    return network(frames)


def _named(error: ValueError, path: Path) -> str:
    """The message with the file in it."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def _in_batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_ahead(
    items: Sequence[Item], read: Callable[[Item], np.ndarray]
) -> Iterator[tuple[Item, np.ndarray]]:
    """Items with what was read, in order; at most a batch and the readers' own are waiting."""
    pending: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(read, item)))
                if len(pending) > BATCH + READERS:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            for ready, future in pending:
                yield ready, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
