"""Writes a dataset clip by clip, so that it can be interrupted anywhere and continued.

    dst/unfinished/card.json                   what is being made; another request is refused
    dst/unfinished/clips/00000012              one clip, serialised
    dst/unfinished/shard-00003.array_record    the clips of a group
    dst/unfinished/shard-00003.json            how many they are, which were skipped and why
    dst/                                       the dataset, once every group is there

The list of clips is cut into groups of neighbours, one shard each; processes share the groups. A
file has its name only once it is whole, and depends on nothing but the request: killed and run
again, in one process or in many, the same bytes result. Of several processes that make the same
share one does, and the others wait.
"""

import collections
import concurrent.futures
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from pusa_jax.data.encoded import (
    NO_TEXT,
    Card,
    EncodedClips,
    Example,
    read_card,
    serialized,
    write_metadata,
    write_records,
)
from pusa_jax.data.lists import Clip
from pusa_jax.data.shards import INFO, shard_name
from pusa_jax.files import locks, temporary
from pusa_jax.files.atomic import replacing
from pusa_jax.files.records import rebuild

UNFINISHED = "unfinished"
SKIPPED = "skipped.jsonl"
"""Report of the clips that are not in the dataset, with reasons."""

REASON = 1000
"""Characters of a reason, at most."""

SHARD_BYTES, LEAST_SHARDS = 2**29, 64
"""Largest size of a shard, and how many there are before they grow: enough to be shared."""

Progress = Callable[[str, int, int], None]
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call of `write_dataset` did, and what there is now.

    Attributes:
      made: clips read in this call, skipped ones included.
      count: clips in the dataset; 0 while other shares are missing.
      skipped: names and reasons of all skipped clips, of this process's share while others miss.
      finished: whether the dataset is complete.
    """

    made: int
    count: int
    skipped: tuple[Mapping[str, Any], ...]
    finished: bool


def clips_per_shard(count: int, clip_shape: Sequence[int]) -> int:
    """Lines of the list per shard."""
    by_size = SHARD_BYTES // (2 * int(np.prod(clip_shape)))
    return max(1, min(by_size, -(-count // LEAST_SHARDS)))


def write_dataset(
    dst: Path,
    clips: Sequence[Clip],
    card: Card,
    *,
    read: Callable[[Clip], Read],
    encode: Callable[[Clip, Read], Example],
    no_text: Callable[[], np.ndarray | None],
    share: tuple[int, int] = (0, 1),
    on_progress: Progress = lambda stage, done, total: None,
) -> Outcome:
    """Makes one process's share of a dataset, and the dataset once all shares are made.

    Args:
      dst: folder of the dataset.
      clips: all clips, of all shares.
      card: what is asked for.
      read: reads the files of a clip; a ValueError or OSError is the reason to skip it. Runs in a
        thread of its own, one clip ahead.
      encode: makes the example of what was read.
      no_text: features of the empty prompt, if they can be made.
      share: which share this process makes, and of how many.
      on_progress: told about the clips of the share, stage "encode".

    Raises:
      FileExistsError: dst holds something else, or another request's dataset; says what differs.
      ValueError: no clip is usable (the first reason is given), or the features of the empty
        prompt are of another width.
    """
    if not 0 <= share[0] < share[1]:
        raise ValueError(f"the share must be 0/{share[1]} to {share[1] - 1}/{share[1]}.")
    if (done := _finished(dst, card)) is not None:
        return done

    def on_wait(who: str):
        on_progress(f"waiting for {who}", 0, 1)

    lock = _work_folder(dst, card) / f"share-{share[0]}-of-{share[1]}.lock"
    with locks.queued(lock, on_wait):
        if (done := _finished(dst, card)) is None:
            return _make_share(dst, clips, card, read, encode, no_text, share, on_progress)
    with contextlib.suppress(OSError):  # finished by the process waited for
        lock.parent.rmdir()
    return done


def _make_share(
    dst: Path,
    clips: Sequence[Clip],
    card: Card,
    read: Callable[[Clip], Read],
    encode: Callable[[Clip, Read], Example],
    no_text: Callable[[], np.ndarray | None],
    share: tuple[int, int],
    on_progress: Progress,
) -> Outcome:
    """See `write_dataset`; no other process makes this share."""
    work = _work_folder(dst, card)
    if not (work / NO_TEXT).is_file() and (features := no_text()) is not None:
        if features.shape[1] != card.text_shape[1]:
            raise ValueError(
                f"the model's text features have {features.shape[1]} channels, the clips' have "
                f"{card.text_shape[1]}; use the model that the clips were encoded with."
            )
        with replacing(work / NO_TEXT) as part, part.open("wb") as file:
            np.save(file, features.astype(ml_dtypes.bfloat16).view(np.uint16))
    size = card.clips_per_shard
    groups = [clips[i : i + size] for i in range(0, len(clips), size)]
    mine = range(share[0], len(groups), share[1])
    total, seen, made = sum(len(groups[k]) for k in mine), 0, 0
    on_progress("encode", 0, total)
    for k in mine:
        if not _record_of(work, k).is_file():

            def on_clip(done, before=seen):
                on_progress("encode", before + done, total)

            made += _write_group(work, k, groups[k], read, encode, on_clip)
        else:
            on_progress("encode", seen + len(groups[k]), total)
        seen += len(groups[k])
    return _publish(dst, work, card, len(groups), made)


def _finished(dst: Path, card: Card) -> Outcome | None:
    """The outcome, if the dataset is complete already; raises if dst holds something else."""
    if not dst.exists():
        return None
    if not (dst / INFO).is_file():
        is_ours = (dst / UNFINISHED).is_dir()
        if not is_ours and (dst.is_file() or {path.name for path in dst.iterdir()} - {SKIPPED}):
            raise FileExistsError(f"{dst} exists and is no dataset; choose another folder.")
        return None
    _refuse_other(dst, read_card(dst), card)
    shutil.rmtree(dst / UNFINISHED, ignore_errors=True)
    skipped = tuple(map(json.loads, (dst / SKIPPED).read_text("utf-8").splitlines()))
    return Outcome(made=0, count=len(EncodedClips(dst)), skipped=skipped, finished=True)


def _work_folder(dst: Path, card: Card) -> Path:
    work = dst / UNFINISHED
    (work / "clips").mkdir(parents=True, exist_ok=True)
    path = work / "card.json"
    if path.is_file():
        _refuse_other(dst, rebuild(Card, json.loads(path.read_text("utf-8"))), card)
    else:
        _write_text(path, json.dumps(card.record()))
    return work


def _refuse_other(dst: Path, there: Card, card: Card) -> None:
    found, wanted = there.record(), card.record()
    if found != wanted:
        differ = [name for name in wanted if found[name] != wanted[name]]
        pairs = (f"{name} ({found[name]!r:.80} there)" for name in differ)
        raise FileExistsError(
            f"{dst} holds a dataset of another request, which differs in {', '.join(pairs)}; "
            "choose another folder."
        )


def _write_group(
    work: Path,
    k: int,
    clips: Sequence[Clip],
    read: Callable[[Clip], Read],
    encode: Callable[[Clip, Read], Example],
    on_clip: Callable[[int], None],
) -> int:
    """Makes the clips that are missing and joins all into a shard; returns how many it made."""
    paths = {clip.number: work / "clips" / f"{clip.number:08d}" for clip in clips}
    missing = [clip for clip in clips if not paths[clip.number].is_file()]
    reasons: dict[int, str] = {}
    for clip, result in _read_ahead(read, missing):
        if isinstance(result, Exception):
            reasons[clip.number] = " ".join(str(result).split())[:REASON] or repr(result)
        else:
            example = encode(clip, result)
            if np.isfinite(example.latents).all() and np.isfinite(example.text).all():
                with replacing(paths[clip.number]) as part:
                    part.write_bytes(serialized(example))
            else:
                reasons[clip.number] = "its latents or text features are not finite."
        on_clip(clip.number - clips[0].number + 1)
    kept = [clip for clip in clips if clip.number not in reasons]
    left_out = [skipped(clip, reasons[clip.number]) for clip in clips if clip.number in reasons]
    records = [paths[clip.number] for clip in kept]
    num_bytes = sum(path.stat().st_size for path in records)
    write_records(_shard_of(work, k), (path.read_bytes() for path in records))
    record = {"count": len(kept), "bytes": num_bytes, "skipped": left_out}
    _write_text(_record_of(work, k), json.dumps(record))
    for path in records:
        path.unlink()
    return len(missing)


def skipped(clip: Clip, reason: str) -> dict[str, Any]:
    """What the report of skipped clips says of one."""
    return {"line": clip.line or clip.number + 1, "file": clip.name, "reason": reason}


def _read_ahead(
    read: Callable[[Clip], Read], clips: Sequence[Clip]
) -> Iterator[tuple[Clip, Read | Exception]]:
    """Clips with what was read or the reason why not; the next is read while one is encoded."""

    def attempt(clip: Clip) -> Read | Exception:
        try:
            return read(clip)
        except (ValueError, OSError) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending: collections.deque = collections.deque()
        for clip in clips:
            pending.append((clip, pool.submit(attempt, clip)))
            if len(pending) > 1:
                ready, future = pending.popleft()
                yield ready, future.result()
        for clip, future in pending:
            yield clip, future.result()


def _publish(dst: Path, work: Path, card: Card, groups: int, made: int) -> Outcome:
    """Turns the working folder into the dataset if all groups are there.

    Several processes may do this at the same time, each step of it is done by one of them.
    """
    records = [_read_json(_record_of(work, k)) for k in range(groups)]
    found = [record for record in records if record is not None]
    skipped = tuple(clip for record in found for clip in record["skipped"])
    if len(found) < groups:
        if (done := _finished(dst, card)) is not None:
            return done
        return Outcome(made=made, count=0, skipped=skipped, finished=False)
    lines = "".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in skipped)
    _write_text(dst / SKIPPED, lines)
    filled = [k for k, record in enumerate(found) if record["count"]]
    if not filled:
        shutil.rmtree(work)
        raise ValueError(
            f"none of {len(skipped)} clips is usable; first: {skipped[0]['file']!r}: "
            f"{skipped[0]['reason']} All are in {dst / SKIPPED}."
        )
    for index, k in enumerate(filled):
        _move(_shard_of(work, k), dst / shard_name(index, len(filled)))
    if (work / NO_TEXT).is_file() or (dst / NO_TEXT).is_file():
        _move(work / NO_TEXT, dst / NO_TEXT)
    lengths = [found[k]["count"] for k in filled]
    num_bytes = sum(found[k]["bytes"] for k in filled)
    write_metadata(dst, card, lengths, num_bytes, temporary.name_for(work / "metadata"))
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(made=made, count=sum(lengths), skipped=skipped, finished=True)


def _move(src: Path, dst: Path) -> None:
    try:
        os.replace(src, dst)
    except FileNotFoundError:
        if not dst.is_file():  # else another process has moved it
            raise


def _shard_of(work: Path, k: int) -> Path:
    return work / f"shard-{k:05d}.array_record"


def _record_of(work: Path, k: int) -> Path:
    return work / f"shard-{k:05d}.json"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, "utf-8")
