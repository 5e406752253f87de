"""Several clips in one program: each has its own prompt, frames and noise."""

import base64
import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_pipeline_steps import IMAGES, SETTINGS, pipe

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.inference.clips import Clip, check_alike, side_by_side

__all__ = ["pipe"]  # a fixture


def given(image, multiplier=0.3):
    return tasks.image_to_video(image, multipliers=[multiplier])


def test_clips_side_by_side_are_those_made_one_by_one(pipe):
    clips = [
        Clip(prompt="a ball", conditions=given(IMAGES[0]), seed=5),
        Clip(prompt="a dog", conditions=given(IMAGES[9]), negative_prompt="a ball"),
        Clip(prompt="a dog", conditions=given(IMAGES[3]), seed=7),
    ]
    together = pipe.batch(clips, settings=SETTINGS)
    assert len(pipe.steps) == SETTINGS.num_steps and len(pipe.steps[0].before) == 3
    for clip, output in zip(clips, together, strict=True):
        seed = SETTINGS.seed if clip.seed is None else clip.seed
        alone = pipe(
            clip.prompt,
            conditions=clip.conditions,
            negative_prompt=clip.negative_prompt,
            settings=dataclasses.replace(SETTINGS, seed=seed),
        )
        np.testing.assert_allclose(output.latents, alone.latents, rtol=1e-4, atol=1e-5)
        assert output.settings == alone.settings and output.seed == seed
        assert output.passes == alone.passes and output.frames.shape == alone.frames.shape


def test_clips_are_given_frames_at_the_same_places():
    first = Clip(prompt="a", conditions=given(IMAGES[0]))
    check_alike([first, first])
    for other in (Clip(prompt="b"), Clip(prompt="b", conditions=given(IMAGES[0], 0.5))):
        with pytest.raises(
            ValueError, match="at the same places with the same multipliers; clip 2"
        ):
            check_alike([first, other])
    with pytest.raises(ValueError, match="at least one clip"):
        check_alike([])


def test_given_latents_lie_side_by_side_whatever_their_order():
    def frame(index, value):
        return FrameCondition(
            index=index, latents=jnp.full((1, 1, 2, 2, 4), value), multiplier=0.5 * index
        )

    joined = side_by_side([[frame(0, 1.0), frame(1, 2.0)], [frame(1, 4.0), frame(0, 3.0)]])
    assert [(f.index, f.multiplier) for f in joined] == [(0, 0.0), (1, 0.5)]
    assert [np.asarray(f.latents)[:, 0, 0, 0, 0].tolist() for f in joined] == [[1, 3], [2, 4]]


def test_a_result_shows_itself_in_a_notebook(pipe):
    output = pipe("a ball", negative_prompt="", settings=SETTINGS)
    shown = dataclasses.replace(
        output, settings=output.settings | {"prompt": "<b>a ball</b>"}
    )._repr_html_()
    assert "&lt;b&gt;a ball&lt;/b&gt;" in shown and "<td>3</td>" in shown
    clip = base64.b64decode(shown.split("data:video/mp4;base64,")[1].split('"')[0])
    assert clip[4:8] == b"ftyp"
    strip = base64.b64decode(shown.split("data:image/png;base64,")[1].split('"')[0])
    with Image.open(io.BytesIO(strip)) as picture:
        assert picture.size == (8 * 48 * 96 // 32, 96)


def test_latents_are_handed_out_behind_every_step(pipe):
    seen = []
    output = pipe(
        "a ball", settings=SETTINGS, on_latents=lambda done, x: seen.append((done, np.asarray(x)))
    )
    assert [done for done, _ in seen] == [1, 2, 3]
    assert all(np.array_equal(x, step.after) for (_, x), step in zip(seen, pipe.steps, strict=True))
    assert np.array_equal(seen[-1][1], output.latents)
