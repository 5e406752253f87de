"""The same frames make the same file, whatever lies in the memory that the encoder is given."""

import os
import subprocess
import sys

CHILD = """
import sys
import numpy as np
from pusa_jax.demo.world import WIDE, draw, render
from pusa_jax.media.video import write_video

write_video(sys.argv[1], render(draw(WIDE, 3_000_000, 6))[:9], 16, {})
"""


def test_a_narrow_clip_is_the_same_file_in_every_process(tmp_path):
    files = [tmp_path / f"{fill}.mp4" for fill in (85, 170)]
    for file in files:
        env = os.environ | {"MALLOC_PERTURB_": file.stem}  # glibc: what new memory holds
        subprocess.run([sys.executable, "-c", CHILD, str(file)], check=True, env=env)
    assert files[0].read_bytes() == files[1].read_bytes()
