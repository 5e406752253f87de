"""What the page asks for, as the words of a command line: its jobs are those of `pusa-jax TASK`."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from pusa_jax.cli.job import INPUT_FLAGS, TASK_HELP, add_sampling_flags, job_of
from pusa_jax.cli.parsing import Parser, UsageError
from pusa_jax.listing import listed
from pusa_jax.web.folders import Folders

SETTINGS = (
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "cfg_scale",
    "shift",
    "solver",
    "seed",
    "fps",
)
"""Flags that the page has a field for; an empty field leaves the flag out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A job as the page describes it.

    Attributes:
      task: of the command line.
      prompt: what happens.
      negative_prompt: what should not; empty is the published one.
      model: a name that `Folders` offers.
      lora: LoRA file that `Folders` offers; empty is none (of the tiny model, its own).
      strength: of the LoRA file.
      inputs: uploaded pictures or clips, in order.
      given: (place, noise level) of each given latent frame, in the order of the inputs.
      settings: flag of `SETTINGS` -> value; None leaves it open.
    """

    task: str
    prompt: str = ""
    negative_prompt: str = ""
    model: str = "tiny"
    lora: str = ""
    strength: float = 1.0
    inputs: tuple[str, ...] = ()
    given: tuple[tuple[int, float], ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def job(self, folders: Folders) -> tuple[Any, Any]:
        """The job and its model, opened; uploads are brought where they stay.

        Raises:
          ValueError, OSError: one line, as on the command line; or a name that is not offered.
        """
        from pusa_jax.media.described import clip_in_words, picture_in_words

        if self.task not in TASK_HELP:
            raise ValueError(f"there is no task {self.task!r:.80}; there are {listed(TASK_HELP)}.")
        words = self._words(folders)
        if self.task in INPUT_FLAGS:
            flag, what = INPUT_FLAGS[self.task]
            if not self.inputs:
                raise ValueError(f"{self.task} needs {what}: drop it on the timeline.")
            look = picture_in_words if flag == "--image_paths" else clip_in_words
            words += [flag, *(folders.taken(path, look) for path in self.inputs)]
            words.append("--cond_position=" + ",".join(str(at) for at, _ in self.given))
            words.append("--noise_multipliers=" + ",".join(f"{m:g}" for _, m in self.given))
        if self.lora:
            words += [f"--lora_path={folders.lora(self.lora)}", f"--lora_alpha={self.strength}"]
        return job_of(_parsed(self.task, words))

    def without_inputs(self, folders: Folders) -> tuple[Any, Any]:
        """The same settings for text alone: what a noise table needs to know."""
        return job_of(_parsed("t2v", self._words(folders)))

    def _words(self, folders: Folders) -> list[str]:
        unknown = [name for name in self.settings if name not in SETTINGS]
        if unknown:
            raise ValueError(f"there is no setting {unknown[0]!r:.80}; there are {SETTINGS}.")
        words = [f"--model={folders.model(self.model)}", f"--prompt={self.prompt}"]
        if self.negative_prompt:
            words.append(f"--negative_prompt={self.negative_prompt}")
        asked = {name: value for name, value in self.settings.items() if value not in (None, "")}
        return words + [f"--{name}={_plain(value)}" for name, value in asked.items()]


def _plain(value: Any) -> str:
    """A number as people write it: browsers send 33.0 for 33."""
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _parsed(task: str, words: list[str]) -> argparse.Namespace:
    parser = Parser(prog=f"pusa-jax {task}")
    add_sampling_flags(parser, task)
    parser.set_defaults(task=task)
    try:
        return parser.parse_args(words)
    except UsageError as error:
        raise ValueError(error.text.partition(" (see ")[0]) from None
