# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# From a table of noise levels to a clip, and a verdict

The whole method of Pusa is one table: a noise level for every latent frame before every step. This
notebook draws such tables, samples clips from them with the tiny model that comes along with the
package, and judges the clips from their pixels. It needs a CPU and a few minutes.

The tiny model knows one world: one coloured shape that moves over a plain background, 33 frames of
48x48 pixels, which are 9 latent frames. What holds here need not hold for the real weights.
"""

# %%
import dataclasses
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from IPython.display import Image, Markdown, display

from pusa_jax.demo import demo, shipped
from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import WIDE, draw, render
from pusa_jax.diffusion import tasks
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.media import video
from pusa_jax.media.pixels import to_pixels
from pusa_jax.models.wan.schedule import noise_table

warnings.filterwarnings("ignore", message="IProgress")  # no progress bars here
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # nor word of PyTorch, which is not needed

# %% [markdown]
"""
## 1. The table

`noise_table` multiplies a schedule (rows: 10 steps and the end) by one multiplier per latent frame
(columns). `m = 1` is a free frame, `m = 0` a frame that is kept exactly. This is image-to-video,
the first latent frame given, at the published multiplier 0.2.
"""

# %%
STEPS, SHIFT, LATENT_FRAMES = 10, 5.0, 9


def multipliers(given: dict[int, float]) -> np.ndarray:
    """One multiplier per latent frame, 1 where a frame is free."""
    return np.array([given.get(i, 1.0) for i in range(LATENT_FRAMES)], np.float32)


table = noise_table(STEPS, SHIFT, multipliers({0: 0.2}))
head = ["step", *(f"frame {i}" for i in range(LATENT_FRAMES))]
rows = [[str(i), *(f"{x:.3f}" for x in row)] for i, row in enumerate(np.asarray(table.sigmas))]
lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
display(Markdown("\n".join(f"| {line} |" for line in lines)))

# %% [markdown]
"""
The same for four tasks, as pictures: white is pure noise, black is clean. Only the table differs
between tasks; the loop over its rows does not.
"""

# %%
FOLDER = Path(tempfile.mkdtemp())


def show(pixels: np.ndarray) -> None:
    """Shows uint8 pixels [H, W, 3] in the notebook."""
    video.write_png(FOLDER / "picture.png", pixels)
    display(Image(data=(FOLDER / "picture.png").read_bytes()))


TASKS = {
    "text to video": {},
    "image to video": {0: 0.2},
    "start and end": {0: 0.2, 8: 0.5},
    "extension": {0: 0.0, 1: 0.3, 2: 0.4, 3: 0.5},
}
pictures = []
for task, given in TASKS.items():
    levels = np.asarray(noise_table(STEPS, SHIFT, multipliers(given)).sigmas)
    grey = np.rint(levels * 255).astype(np.uint8).repeat(12, axis=0).repeat(16, axis=1)
    picture = np.concatenate([video.line_of_text(task, grey.shape[1]), np.stack([grey] * 3, -1)])
    pictures += [picture, np.full((picture.shape[0], 12, 3), 128, np.uint8)]
show(np.concatenate(pictures[:-1], axis=1))

# %% [markdown]
"""
## 2. A clip

A scene is drawn together with its truth: where the shape is in every frame. Its first frame is
given, its caption is the prompt, and the model makes the other 32 frames.
"""

# %%
pipe = PusaPipeline.from_pretrained(str(shipped.FOLDER), dtype="float32", lora=(shipped.LORA,))
scene = draw(WIDE, 3_000_000, 14)
truth = render(scene)


def sample(conditions: list, seed: int = 0):
    """Samples a clip of the scene with the settings that the tiny model is best at."""
    return pipe(
        scene.caption,
        conditions=conditions,
        negative_prompt=shipped.NEGATIVE_PROMPT,
        settings=dataclasses.replace(shipped.SETTINGS, seed=seed),
    )


result = sample(tasks.image_to_video(truth[0], multipliers=[0.0]))
show(demo.row(f"the truth: {scene.caption}", truth, given=()))
show(demo.row("image to video, multiplier 0 (given frame marked)", result.frames, given=(0,)))

# %% [markdown]
"""
A frame with multiplier 0 never moves: its latents after the last step are the encoded picture, to
the last bit.
"""

# %%
encoded = pipe.encode(to_pixels(truth[:1])[None], tiled=shipped.SETTINGS.tiled)
difference = np.abs(result.latents[:, :1] - encoded).max()
print("largest difference of the given latent frame:", difference)

# %% [markdown]
"""
## 3. The verdict

The judge looks at pixels alone. It leaves out the given frames, counts in how many of the others
there is exactly one object of the right area, colour and shape, and says how far its centre is from
where it should be.
"""

# %%
ROW = "| {} | {:.0%} | {:.0%} | {:.0%} | {} | {} | {:.1f} |"
HEAD = "| | coherent | colour | shape | direction | path | error, px |\n" + "|---" * 7 + "|"


def judged(name: str, frames: np.ndarray, given: tuple[int, ...]) -> str:
    """One line of a table of verdicts; the error is the median over the frames not given."""
    pixels = demo.given_pixels(given)
    found = judge(frames, scene, pixels)
    error = np.nanmedian([e for i, e in enumerate(found.errors) if i not in pixels])
    right = ("wrong", "right")
    return ROW.format(
        name,
        found.coherent,
        found.colour,
        found.shape,
        right[found.direction],
        right[found.path],
        error,
    )


display(Markdown("\n".join([HEAD, judged("multiplier 0", result.frames, (0,))])))

# %% [markdown]
"""
## 4. What the multiplier does

More noise on the given frame gives the model more freedom around it, and keeps less of it. `kept`
is the PSNR of the first frame against the given picture; the VAE alone limits it.
"""


# %%
def kept(frames: np.ndarray) -> float:
    """PSNR of the first frame against the given one, in dB."""
    return 20 * np.log10(255 / np.sqrt(np.mean((np.float64(frames[0]) - truth[0]) ** 2)))


verdicts = [HEAD, judged(f"m = 0, kept {kept(result.frames):.1f} dB", result.frames, (0,))]
for m in (0.2, 0.4, 0.7):
    frames = sample(tasks.image_to_video(truth[0], multipliers=[m])).frames
    verdicts.append(judged(f"m = {m}, kept {kept(frames):.1f} dB", frames, (0,)))
    show(demo.row(f"image to video, m = {m}", frames, given=(0,)))
display(Markdown("\n".join(verdicts)))

# %% [markdown]
"""
One scene and one seed prove nothing: `make experiments` asks the same of 204 scenes over 3 seeds;
what it found is on the page about multipliers, solver and steps.

## 5. Other tasks, the same loop

None of these was trained for. Nothing but conditions and multipliers changes from one to the next.
"""

# %%
ends = tasks.start_end(truth[0], truth[-1], LATENT_FRAMES, multipliers=[0.0, 0.0])
beginning = tasks.extend(truth[:13], stride=4, multipliers=[0.0] * 4)
verdicts = [HEAD]
for name, conditions, given in (
    ("text to video", [], ()),
    ("start and end", ends, (0, 8)),
    ("extension", beginning, (0, 1, 2, 3)),
):
    frames = sample(conditions).frames
    verdicts.append(judged(name, frames, given))
    show(demo.row(name, frames, given=given))
display(Markdown("\n".join(verdicts)))

# %% [markdown]
"""
Text to video has no place to be compared with: its error is the distance from a scene the model has
never seen, and only its other columns say something.
"""
