"""What strangers claim is held against what is there before anything is made of it."""

import dataclasses
import json
import math

import pytest

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.files import claims
from pusa_jax.inference.jobs import Job, prepare

JOB = Job(task="t2v", model="nowhere", prompt="a dog", negative_prompt="")


def record(**changes):
    settings = dataclasses.asdict(SamplingConfig()) | changes.pop("settings", {})
    return json.loads(json.dumps(dataclasses.asdict(JOB) | {"settings": settings} | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": {"num_steps": 10**9}}, "number of steps must be 1 to 10000"),
        ({"settings": {"height": 2**40}}, "height must be 1 to 16384"),
        ({"settings": {"width": -16}}, "width must be"),
        ({"settings": {"num_frames": 10**9 + 1}}, "number of frames must be"),
        ({"settings": {"height": 16384, "width": 16384, "num_frames": 16381}}, "this machine has"),
        ({"settings": {"guidance_scale": math.inf}}, "guidance scale must be"),
        ({"settings": {"guidance_scale": 1e300}}, "guidance scale must be"),
        ({"settings": {"guidance_scale": math.nan}}, "guidance scale must be"),
        ({"settings": {"shift": 1e308}}, "shift must be"),
        ({"settings": {"shift": 1e-308}}, "shift must be"),
        ({"prompt": "a" * 5_000_000}, "prompt has 5000000 characters"),
        ({"negative_prompt": "a" * 20_001}, "negative prompt has 20001 characters"),
        ({"lora": [["a", 1e300]]}, "strength of a"),
        ({"lora": [["a", math.nan]]}, "strength of a"),
        ({"inputs": ["a"] * 10_001}, "number of inputs"),
        ({"at": [0] * 10_001}, "number of at"),
    ],
)
def test_jobs_out_of_proportion_are_refused(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says) as error:
        job = Job.from_record(record(**changes))
        prepare(job, tmp_path / "a.mp4")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_what_people_sample_is_not_refused():
    for frames, height, width in ((81, 720, 1280), (241, 1080, 1920)):
        claims.check_video(frames, height, width)


@pytest.mark.parametrize("shape", [(0, 1), (-1, 2), (2**30, 2**30)])
def test_shapes_of_cards_are_sizes(shape):
    with pytest.raises(ValueError, match="text_shape must be sizes above 0"):
        claims.check_shape("text_shape", shape, 2, claims.TEXT_BYTES)
