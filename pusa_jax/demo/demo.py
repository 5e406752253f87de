"""Every task on a laptop, with the trained models that come along: a clip each, and verdicts.

The world is one of coloured shapes (`demo.world`): what was asked for is known exactly, and
the measuring stick says how much of it came true, from the pixels of frames that were not given.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pusa_jax.demo import shipped
from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import WIDE, Scene, draw, render
from pusa_jax.inference import jobs
from pusa_jax.inference.jobs import Job
from pusa_jax.inference.loading import load_parts, open_model
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.media import video
from pusa_jax.progress import Progress, no_progress

SEED = 3_000_000
"""Of the scenes: far from those of any training."""

SHOWN = range(0, 33, 4)
"""Frames on the sheet: the first, and the last of every latent frame."""

SCALE = 2
"""Pixels of the sheet per pixel of a clip."""

MARKED, UNMARKED = (255, 176, 0), (32, 32, 32)
"""Frame around given and around made frames."""

NOTICE = """The real weights, for real pictures:
  download Wan2.1-T2V-14B and the Pusa LoRA (README, "With the real weights"), then
  pusa-jax i2v --model Wan2.1-T2V-14B --lora_path pusa_v1.safetensors \\
      --image_paths photo.jpg --prompt "..." """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One task of the demo.

    Attributes:
      scene: what should be seen.
      inputs: name of a file -> frames in it: one for a picture, more for a clip.
      given: latent frames that are given.
    """

    scene: Scene
    inputs: dict[str, UInt8[np.ndarray, "T H W 3"]]
    given: tuple[int, ...]


def parts() -> dict[str, Part]:
    """Task -> what it starts from and what should come of it."""
    scenes = {task: draw(WIDE, SEED, i) for i, task in enumerate(jobs.TASKS)}
    clips = {task: render(scene) for task, scene in scenes.items()}

    def part(task: str, given: Sequence[int], *inputs: np.ndarray) -> Part:
        ending = "png" if all(len(frames) == 1 for frames in inputs) else "mp4"
        files = {f"{task}-{i}.{ending}": frames for i, frames in enumerate(inputs)}
        return Part(scene=scenes[task], inputs=files, given=tuple(given))

    def one(task: str, frame: int) -> np.ndarray:
        return clips[task][frame : frame + 1]

    return {
        "t2v": part("t2v", ()),
        "i2v": part("i2v", (0,), one("i2v", 0)),
        "start-end": part("start-end", (0, 8), one("start-end", 0), one("start-end", 32)),
        "interpolate": part(
            "interpolate", (0, 4, 8), *(one("interpolate", frame) for frame in (0, 16, 32))
        ),
        "complete": part("complete", (0, 8), clips["complete"]),
        "extend": part("extend", range(4), clips["extend"][:13]),
        "transition": part(
            "transition", (0, 1, 2, 6, 7, 8), clips["transition"][:9], clips["transition"][21:]
        ),
        "loop": part("loop", (0, 8), one("loop", 0)),
    }


def given_pixels(latents: Sequence[int]) -> tuple[int, ...]:
    """Pixel frames that latent frames stand for."""
    spans = (range(1) if i == 0 else range(4 * i - 3, 4 * i + 1) for i in latents)
    return tuple(frame for span in spans for frame in span)


def run_demo(output: Path, on_progress: Progress = no_progress) -> int:
    """Makes a clip per task, `sheet.png` and `report.json` in `output`."""
    began = time.perf_counter()
    inputs = output / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    folder, lora = str(shipped.FOLDER), (shipped.LORA,)
    model = open_model(folder, lora)
    parts_of_model = load_parts(model, dtype="float32", mesh=None, on_progress=on_progress)
    pipeline = PusaPipeline(**vars(parts_of_model))
    rows, verdicts = [], {}
    for i, (task, part) in enumerate(parts().items()):
        paths = []
        for name, frames in part.inputs.items():
            paths.append(str(inputs / name))
            if len(frames) == 1:
                video.write_png(paths[-1], frames[0])
            else:
                video.write_video(paths[-1], frames, 16, {})
        job = Job(
            task=task,  # pyright: ignore[reportArgumentType]
            model=folder,
            prompt=part.scene.caption,
            negative_prompt=shipped.NEGATIVE_PROMPT,
            lora=lora,
            inputs=tuple(paths),
            multipliers=(0.0,) * len(part.given) or None,
            dtype="float32",
            settings=dataclasses.replace(shipped.SETTINGS, seed=i),
        )
        prepared = jobs.prepare(job, output / f"{task}.mp4", model)
        result, *_ = jobs.run(prepared, _as_one(task, on_progress), pipeline)
        on_progress(task, len(STAGES), len(STAGES))
        verdicts[task] = verdict(part, result.frames)
        rows.append(row(f"{task}: {part.scene.caption}", result.frames, part.given))
        print(f"{output / task}.mp4: {part.scene.caption}: {in_words(verdicts[task])}")
    video.write_png(output / "sheet.png", np.concatenate(rows))
    seconds = round(time.perf_counter() - began, 1)
    missed = [task for task, found in verdicts.items() if found["missed"]]
    record = {"seconds": seconds, "tasks": verdicts}
    (output / "report.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"{output / 'sheet.png'}: all at a glance, given frames marked; {seconds} s in all")
    met = f"{len(verdicts) - len(missed)} of {len(verdicts)} clips are as asked for"
    print(f"{met}; missed: {', '.join(missed) or 'nothing'}")
    print(NOTICE)
    return 0


STAGES = ("text", "encode", "compile", "denoise", "decode")
"""Of a clip, in order."""


def _as_one(task: str, on_progress: Progress) -> Progress:
    """Progress through the stages of a clip as that of one stage with the name of its task."""

    def report(stage: str, done: int, total: int) -> None:
        on_progress(task, STAGES.index(stage), len(STAGES))

    return report


def verdict(part: Part, frames: UInt8[np.ndarray, "T H W 3"]) -> dict[str, Any]:
    """What the stick says of the frames that were not given, and what of it is missed, in words."""
    found, scene = judge(frames, part.scene, given_pixels(part.given)), part.scene
    shares = {name: round(getattr(found, name), 3) for name in SHARES}
    missed = [
        f"{words.format(scene)} in only {share:.0%} of the frames made"
        for (name, share), words in zip(shares.items(), SHARES.values(), strict=True)
        if share < MOST
    ]
    if not found.direction:
        missed.append(f"it does not go {scene.direction}")
    if not found.path:
        missed.append("it does not turn back" if scene.path == "bouncing" else "it turns back")
    return {
        "prompt": scene.caption,
        **shares,
        "direction": found.direction,
        "path": found.path,
        "missed": missed,
    }


def in_words(verdict: dict[str, Any]) -> str:
    """What a person reads of a verdict."""
    missed = verdict["missed"]
    return f"missed: {'; '.join(missed)}" if missed else "as asked for"


SHARES = {
    "coherent": "one object of the right size",
    "colour": "{0.colour}",
    "background": "on {0.background}",
    "shape": "a {0.shape}",
}
"""Share of frames in a verdict -> how a miss begins, of a scene."""

MOST = 0.9
"""Share of the frames from which on something counts as met."""


def row(
    text: str, frames: UInt8[np.ndarray, "T H W 3"], given: Sequence[int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Every fourth frame of a clip side by side under a line of text, those given marked."""
    tiles = []
    for latent, frame in enumerate(SHOWN):
        tile = frames[frame].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        edge = MARKED if latent in given else UNMARKED
        border = np.empty((tile.shape[0] + 8, tile.shape[1] + 8, 3), np.uint8)
        border[:] = edge
        border[4:-4, 4:-4] = tile
        tiles.append(border)
    strip = np.concatenate(tiles, axis=1)
    return np.concatenate([video.line_of_text(text, strip.shape[1]), strip])
