"""A result as a notebook shows it: the clip, a strip of its frames, and what made it."""

import base64
import html
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pusa_jax.media import video

SHOWN = ("prompt", "num_steps", "guidance_scale", "solver", "shift", "height", "width", "fps")
"""Settings in the table."""

STRIP, HIGH = 8, 96
"""Frames of the strip at most, and pixels that they are high."""


def as_html(
    frames: UInt8[np.ndarray, "T H W 3"], settings: Mapping[str, Any], more: Mapping[str, Any]
) -> str:
    """One block of HTML with everything inside.

    Args:
      frames: of the clip.
      settings: what made it.
      more: further rows of the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        video.write_video(path, frames, settings.get("fps", 16))
        clip = base64.b64encode(path.read_bytes()).decode()
    chosen = np.linspace(0, len(frames) - 1, min(STRIP, len(frames))).astype(int)
    strip = Image.fromarray(np.concatenate([*frames[chosen]], axis=1))
    strip = strip.resize((max(strip.width * HIGH // strip.height, 1), HIGH))
    picture = BytesIO()
    strip.save(picture, "png")
    rows = {name: settings[name] for name in SHOWN if name in settings} | dict(more)
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return (
        f'<video controls loop muted src="data:video/mp4;base64,{clip}"></video><br>'
        f'<img alt="frames" src="data:image/png;base64,'
        f'{base64.b64encode(picture.getvalue()).decode()}"><table>{table}</table>'
    )
