"""Datasets of encoded clips, as array_record of TFDS: the only module that knows Grain and TFDS.

A dataset is a folder that `tensorflow_datasets.builder_from_directory` opens; TensorFlow is not
needed. Each example holds the latents of a clip, the features of its caption without padding, the
caption and the name. TFDS cannot write bfloat16, so arrays lie there as the same bits in uint16.
`metadata.json` is the card: what was encoded with what.
"""

import copy
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

try:
    import grain
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
    from tensorflow_datasets.core import dataset_info, example_serializer, splits
except ImportError as error:
    raise ImportError(
        f"datasets need more packages ({error}): pip install 'pusa_jax[train]'."
    ) from error

from pusa_jax.data.cards import Card, read_card
from pusa_jax.data.shards import (
    INFO,
    NAME,
    SPLIT,
    check_sums,
    checked_shards,
    write_sums,
)
from pusa_jax.files.atomic import replacing
from pusa_jax.files.records import differing_fields
from pusa_jax.listing import listed

NO_TEXT = "no_text.npy"
"""File with the features of the empty prompt."""

_UNREADABLE = Exception
"""What reading a damaged shard may raise: protobuf's and TFDS's errors have no other base."""

IN_MEMORY = 2**30
"""Bytes; of a dataset no larger than this every clip is read once and kept."""

FOR_EVER = 2**32
"""Times that a dataset is repeated: grain counts batches in floats, and without an end it overflows
where a batch is one clip."""

WRITER = "group_size:1,uncompressed"
"""One record per block, for random access; latents in bfloat16 hardly compress."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded clip.

    Attributes:
      name: of the clip.
      caption: its text.
      latents: normalised, bfloat16.
      text: features of the caption without the rows of the padding, bfloat16.
    """

    name: str
    caption: str
    latents: Shaped[np.ndarray, "F h w C"]
    text: Shaped[np.ndarray, "n E"]


def serialized(example: Example) -> bytes:
    """An example as it lies in the dataset; the same bytes in every process."""
    features = _features(example.latents.shape, example.text.shape[1])
    encoded = features.encode_example(
        {
            "id": example.name,
            "caption": example.caption,
            "latents": _bits(example.latents),
            "text": _bits(example.text),
        }
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    # Not `serialize_example`: it writes the fields in an order that changes between processes.
    return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)).view(np.uint16)


@functools.cache
def _features(clip_shape: tuple[int, ...], text_dim: int) -> Any:
    tensor = functools.partial(tfds.features.Tensor, dtype=np.uint16, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "caption": tfds.features.Text(),
            "latents": tensor(shape=clip_shape),
            "text": tensor(shape=(None, text_dim)),
        }
    )


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes a shard; it has its name only once it is complete.

    Raises:
      OSError: it could not be written, as on a full disk.
    """
    count = 0
    try:
        with replacing(path) as part:
            writer = ArrayRecordWriter(str(part), WRITER)
            for record in records:
                writer.write(record)
                count += 1
            writer.close()
            if ArrayRecordReader(str(part)).num_records() != count:
                raise OSError(f"{path} could not be written as a whole; is the disk full?")
    except (RuntimeError, ValueError) as error:
        raise OSError(f"{path} could not be written: {error}") from None


def write_metadata(
    folder: Path, card: Card, lengths: Sequence[int], num_bytes: int, staging: Path
) -> None:
    """Makes a dataset of the shards in a folder.

    Args:
      folder: holds the shards.
      card: what they hold.
      lengths: number of examples in each shard.
      num_bytes: of all examples together.
      staging: folder on the same file system, made and removed again.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity(
        name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(staging), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Latents and text features of captioned clips; see metadata.json.",
        features=_features(card.clip_shape, card.text_shape[1]),
        metadata=tfds.core.MetadataDict(card.record()),
        disable_shuffling=True,
    )
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(staging),
        dataset_name=NAME,
        split=SPLIT,
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(lengths), num_bytes=num_bytes, filename_template=template
    )
    info.set_splits(splits.SplitDict([split]))
    info.write_to_directory(staging)
    write_sums(staging, folder)
    for path in sorted(staging.iterdir(), key=lambda path: path.name == INFO):
        os.replace(path, folder / path.name)
    staging.rmdir()


class EncodedClips:
    """A dataset of encoded clips; `training.batches.Clips`.

    Attributes:
      card: what the dataset is.
      clip_shape: [F, h, w, C] of the latents.
      text_shape: [L, E] of the captions' features.
    """

    def __init__(self, folder: str | Path):
        """Opens a dataset.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is not complete or whole, holds no clips, or is not one of ours.
        """
        self.folder = Path(folder)
        self.card = read_card(self.folder)
        self.clip_shape, self.text_shape = self.card.clip_shape, self.card.text_shape
        text_dim = self.text_shape[1]
        self._shards, lengths = checked_shards(self.folder, self.clip_shape, text_dim)
        if not sum(lengths):
            raise ValueError(f"{folder} holds no clips; encode some.")
        self._features = _features(self.clip_shape, text_dim)
        try:
            self._source = ArrayRecordDataSource([str(path) for path in self._shards])
        except _UNREADABLE as error:
            raise self._damaged("a shard cannot be opened", error) from None
        if len(self._source) != sum(lengths):
            raise ValueError(
                f"{folder} is damaged: its shards hold {len(self._source)} clips, {INFO} says "
                f"{sum(lengths)}; copy it again, or encode again."
            )
        self._numbers: Sequence[int] = range(len(self._source))
        self._example = self._read
        if self.num_bytes <= IN_MEMORY:
            self._example = functools.cache(self._read)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._numbers)

    def part(self, indices: Sequence[int]) -> "EncodedClips":
        """A set of these clips alone, which are numbered anew."""
        part = copy.copy(self)
        part._numbers = [self._numbers[i] for i in indices]
        return part

    @property
    def num_bytes(self) -> int:
        """Size of all shards."""
        return sum(path.stat().st_size for path in self._shards)

    @property
    def no_text(self) -> np.ndarray:
        """Features of the empty prompt, [L, E].

        Raises:
          ValueError: the dataset was imported without a model that could encode it.
        """
        path = self.folder / NO_TEXT
        if not path.is_file():
            raise ValueError(
                f"{self.folder} has no features of the empty prompt, which dropping captions "
                "needs; import it with --model."
            )
        try:
            return self._padded(np.load(path, allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise self._damaged(f"{NO_TEXT} cannot be read", error) from None

    def check_fits(
        self,
        clip_shape: tuple[int, int, int, int],
        text_shape: tuple[int, int],
        vae: Mapping[str, Any] | None = None,
    ) -> None:
        """Holds the dataset against what a run expects.

        Args:
          clip_shape: [F, h, w, C].
          text_shape: [L, E].
          vae: record of the VAE that the run samples with, as in a card.

        Raises:
          ValueError: it is of other shapes or of another VAE; one line says what differs.
        """
        for what, has, wants in (
            ("latents [F, h, w, C]", self.clip_shape, clip_shape),
            ("text features [L, E]", self.text_shape, text_shape),
        ):
            if tuple(has) != tuple(wants):
                frames, height, width = self.card.pixels
                raise ValueError(
                    f"{self.folder} holds {what} of {list(has)} ({frames} frames of "
                    f"{height}x{width}), the run wants {list(wants)}; encode again, or train with "
                    f"--config.data.num_frames={frames} --config.data.height={height} "
                    f"--config.data.width={width}."
                )
        if vae is None:
            return
        mine, parts = self.card.vae, frozenset({"config"})
        differ = differing_fields(mine, {"config": json.loads(json.dumps(vae["config"]))}, parts)
        prints = mine["fingerprint"], vae["fingerprint"]
        if all(prints) and prints[0] != prints[1]:
            differ.append("fingerprint is {!r} there and {!r} here".format(*prints))
        if differ:
            raise ValueError(
                f"{self.folder} was encoded by another VAE than the run's: "
                f"{listed(differ, between='; ')}; name the model it was encoded with, or "
                "encode again."
            )

    def captions(self) -> Iterable[str]:
        """Every caption once; of clips made from a list, all are read for it."""
        if self.card.layout:
            return [str(number) for number in range(len(self.card.classes))]
        return sorted({self.example(index).caption for index in range(len(self))})

    def example(self, index: int) -> Example:
        """One clip, as it was stored."""
        return self._example(self._numbers[index])

    def check(self) -> None:
        """Reads every byte of the dataset; raises ValueError if one has changed."""
        check_sums(self.folder)

    def _read(self, index: int) -> Example:
        try:
            stored = self._features.deserialize_example_np(self._source[index])
            example = Example(
                name=stored["id"].decode(),
                caption=stored["caption"].decode(),
                latents=stored["latents"].view(ml_dtypes.bfloat16),
                text=stored["text"].view(ml_dtypes.bfloat16),
            )
        except _UNREADABLE as error:
            raise self._damaged(f"clip {index} cannot be read", error) from None
        shapes = example.latents.shape, example.text.shape[1:]
        if (
            shapes != (self.clip_shape, self.text_shape[1:])
            or len(example.text) > self.text_shape[0]
        ):
            raise self._damaged(f"clip {index} is of another shape", ValueError(shapes))
        return example

    def _damaged(self, what: str, error: Exception) -> ValueError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return ValueError(
            f"{self.folder} is damaged: {what} ({reason:.150}); copy it again, or encode again."
        )

    def at(self, indices: Iterable[int]) -> dict[str, Any]:
        """A batch of these clips: `latents` [b, F, h, w, C], `text` [b, L, E] and `id`."""
        examples = [self.example(int(index)) for index in indices]
        return {
            "latents": np.stack([example.latents for example in examples]),
            "text": np.stack([self._padded(example.text) for example in examples]),
            "id": [example.name for example in examples],
        }

    def examples(self, count: int) -> dict[str, Any]:
        """The first clips, from the front again if there are too few."""
        return self.at([i % len(self) for i in range(count)])

    def batches(self, batch_size: int, rows: Sequence[int], seed: int) -> "ClipBatches":
        """Batches in random order, of which this process reads rows `rows`.

        Raises:
          ValueError: batch size or seed make no sense.
        """
        return ClipBatches(self, batch_size, rows, seed)

    def _padded(self, text: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.text_shape, ml_dtypes.bfloat16)
        padded[: len(text)] = text.view(ml_dtypes.bfloat16)
        return padded


class ClipBatches:
    """Endless batches whose order is a function of seed and step alone; `training.batches.Batches`.

    Clips come in a new random order each time all have been seen, across the borders of batches, so
    that a dataset may be smaller than a batch.
    """

    def __init__(self, clips: EncodedClips, batch_size: int, rows: Sequence[int], seed: int):
        """Starts at step 0, see `EncodedClips.batches`."""
        if batch_size < 1 or seed < 0:
            raise ValueError(
                f"batch size and seed must be at least 1 and 0, got {batch_size} and {seed}."
            )
        self._identity = {
            "clips": clips.card.clips, "count": len(clips), "batch_size": batch_size, "seed": seed
        }  # fmt: skip
        order = grain.MapDataset.range(len(clips)).shuffle(seed=seed % 2**32).repeat(FOR_EVER)
        share = order.batch(batch_size).map(lambda batch: clips.at(batch[list(rows)].tolist()))
        # Threads, not processes: reading is copying, and array_record releases the lock meanwhile.
        reading = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
        self._iterator = iter(share.to_iter_dataset(reading))

    def __iter__(self) -> "ClipBatches":
        """Itself."""
        return self

    def __next__(self) -> dict[str, Any]:
        """This process's rows of the next batch."""
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """The position behind the batches handed out so far, as plain values for JSON."""
        return {**self._identity, "reader": self._iterator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position, whatever the number of processes that it was taken with.

        Raises:
          ValueError: the position belongs to another order: other clips, batch size or seed.
        """
        now = self._identity.items()
        wrong = [f"{n} {state.get(n)!r} (now {v!r})" for n, v in now if state.get(n) != v]
        if wrong:
            raise ValueError(f"the checkpoint's place in the data is of {', '.join(wrong)}.")
        self._iterator.set_state(dict(state["reader"]))
