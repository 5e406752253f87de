"""How the videos of VBench-I2V are made, and what their folder may hold."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.files.atomic import replacing
from pusa_jax.listing import listed
from pusa_jax.vbench.suite import SAMPLES, Prompt, seed_of

PROTOCOL: Mapping[str, Any] = {
    "crf": 10,  # VBench's pseudo-code for sampling
    "num_inference_steps": 10,  # Pusa's paper, arXiv 2507.16116, Table 1
    "noise_multipliers": [0.0],  # the same: the first frame is kept
}
"""Field of a job -> its value, unless another is asked for."""

OF_PUSA = ("num_inference_steps",)
"""Of them what is of Pusa's run, and not of few-step LoRA files or a base model."""


def jobs_of(
    prompts: Iterable[Prompt], images: Path, seed: int, common: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The lines of a batch, in the order of the list, five for each prompt.

    Args:
      prompts: of the list.
      images: folder of the images, cropped to a ratio.
      seed: that those of all videos come from.
      common: field -> value of all jobs, `PROTOCOL` and what was asked.
    """
    for prompt in prompts:
        for index in range(SAMPLES):
            name = prompt.video(index)
            own = {
                "id": name.removesuffix(".mp4"),
                "task": "i2v",
                "prompt": prompt.text,
                "image_paths": [str(images / prompt.image)],
                "seed": seed_of(seed, prompt, index),
                "output": name,
            }
            yield {**common, **own}


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
    there = {each.name for each in folder.iterdir()}
    own = {prompt.video(index) for prompt in prompts for index in range(SAMPLES)}
    if strangers := sorted(there - own):
        raise ValueError(
            f"{folder} holds {listed(strangers, 3)}, no video of the list: VBench takes the ending "
            "of the first file there for that of all; give a folder for the videos alone."
        )
    return len(there)


def write_beside(
    folder: Path, jobs: Iterable[Mapping[str, Any]], record: Mapping[str, Any]
) -> Path:
    """Writes the lines of a batch, and what the run is, beside the folder of videos.

    Args:
      folder: of the videos.
      jobs: see `jobs_of`.
      record: what the run is, as JSON values.

    Returns:
      the file of the lines.
    """
    lines = beside(folder, "jobs.jsonl")
    with replacing(lines) as part:
        part.write_text(
            "".join(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs), "utf-8"
        )
    with replacing(beside(folder, "protocol.json")) as part:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return lines


def beside(folder: Path, what: str) -> Path:
    """A file about a folder of videos, which must not lie in it."""
    return folder.absolute().with_name(f"{folder.absolute().name}.{what}")
