"""How the videos of VBench-I2V are made, and what their folder may hold."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.batch.lines import Line
from pusa_jax.batch.shares import LOCKS
from pusa_jax.files.atomic import replacing
from pusa_jax.listing import listed
from pusa_jax.vbench.suite import SAMPLES, Prompt, seed_of

PROTOCOL: Mapping[str, Any] = {
    "crf": 10,  # VBench's pseudo-code for sampling
    "num_inference_steps": 10,  # Pusa's paper, arXiv 2507.16116, Table 1
    "noise_multipliers": [0.0],  # the same: the first frame is kept
}
"""Field of a job -> its value, unless another is asked for."""

OF_OTHERS = {"fast", "preset"}
"""Flags with which the number of steps is not Pusa's."""


def fields_beside(common: Collection[str]) -> dict[str, Any]:
    """What the protocol asks of all videos beside the flags that are given, by their names."""
    kept = {name: value for name, value in PROTOCOL.items() if name not in common}
    if OF_OTHERS & set(common):
        kept.pop("num_inference_steps", None)
    return kept


def lines_of(
    prompts: Iterable[Prompt], images: Path, seed: int, fields: Mapping[str, Any]
) -> Iterator[Line]:
    """The lines of a batch, in the order of the list, five for each prompt.

    Args:
      prompts: of the list.
      images: folder of the images, cropped to a ratio.
      seed: that those of all videos come from.
      fields: of all lines.
    """
    number = 0
    for prompt in prompts:
        for index in range(SAMPLES):
            number += 1
            name = prompt.video(index)
            own = {
                "task": "i2v",
                "prompt": prompt.text,
                "image_paths": [str(images / prompt.image)],
                "seed": seed_of(seed, prompt, index),
            }
            yield Line(
                id=name.removesuffix(".mp4"), fields={**fields, **own}, output=name, number=number
            )


def check_folder(folder: Path, prompts: Sequence[Prompt]) -> int:
    """Makes sure that a folder holds videos of the list alone; returns how many are there.

    Raises:
      NotADirectoryError: it is a file.
      ValueError: it holds something else.
    """
    if not folder.exists():
        return 0
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder for the videos.")
    there = {each.name for each in folder.iterdir()} - {LOCKS}
    own = {prompt.video(index) for prompt in prompts for index in range(SAMPLES)}
    if strangers := sorted(there - own):
        raise ValueError(
            f"{folder} holds {listed(strangers, 3)}, no video of the list: VBench takes the ending "
            "of the first file there for that of all; give a folder for the videos alone."
        )
    return len(there)


def write_beside(folder: Path, lines: Iterable[Line], record: Mapping[str, Any]) -> Path:
    """Writes the lines of a batch, and what the run is, beside the folder of videos.

    Args:
      folder: of the videos.
      lines: see `lines_of`.
      record: what the run is, as JSON values.

    Returns:
      the file of the lines.
    """
    path = beside(folder, "jobs.jsonl")
    jobs = ({"id": line.id, "output": line.output} | line.fields for line in lines)
    with replacing(path) as part:
        part.write_text(
            "".join(f"{json.dumps(job, ensure_ascii=False)}\n" for job in jobs), "utf-8"
        )
    with replacing(beside(folder, "protocol.json")) as part:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def beside(folder: Path, what: str) -> Path:
    """A file about a folder of videos, which must not lie in it."""
    return folder.absolute().with_name(f"{folder.absolute().name}.{what}")
