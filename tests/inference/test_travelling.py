"""A job that goes to another folder or machine inside its video finds its inputs there."""

import numpy as np
import pytest

from pusa_jax.inference.jobs import Job
from pusa_jax.media import video


def test_inputs_are_found_beside_the_video_by_name_or_by_what_is_in_them(tmp_path):
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir(), here.mkdir()
    files = [elsewhere / "a.png", elsewhere / "b.png"]
    for i, file in enumerate(files):
        video.write_png(file, np.full((16, 16, 3), i, np.uint8))
    job = Job(
        task="start-end", model="m", prompt="", negative_prompt="", inputs=tuple(map(str, files))
    )
    record = job.as_record()
    files[0].rename(here / "a.png")
    files[1].rename(here / "another name.png")
    moved = Job.from_record(record, here)
    assert moved.inputs == (str(here / "a.png"), str(here / "another name.png"))
    with pytest.raises(ValueError, match=r"b\.png is not there any more, nor in .*here; put"):
        (here / "another name.png").unlink()
        Job.from_record(record, here)
