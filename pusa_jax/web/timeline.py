"""The state of the timeline between browser and jobs; the component itself is `timeline.js`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pusa_jax.files import claims
from pusa_jax.web.presets import INPUTS, kind_of

HERE = Path(__file__).parent

LONGEST = 100_000
"""Characters of a state that is read."""


def source(ending: str) -> str:
    """The script (`js`) or the style (`css`) of the component."""
    return (HERE / f"timeline.{ending}").read_text("utf-8")


def state(
    task: str, f: int, given: Sequence[tuple[int, float]], files: Sequence[dict[str, Any]] = ()
) -> str:
    """What the browser is given.

    Args:
      task: of the command line.
      f: latent frames.
      given: (place, noise level) pairs.
      files: `path`, `url`, `name` of each input, and `at`, see `timeline.js`.
    """
    kind = kind_of(task)
    return json.dumps(
        {
            "task": task,
            "kind": kind,
            "frames": f,
            "slots": INPUTS.get(task, 1),
            "files": list(files),
            "levels": {str(at): round(float(level), 4) for at, level in given},
        }
    )


def length(text: str) -> int:
    """Latent frames of a state; 0 where there is none yet."""
    return json.loads(text)["frames"] if text else 0


def read(text: Any) -> tuple[tuple[str, ...], tuple[tuple[int, float], ...]]:
    """Paths of the inputs, in order, and (place, noise level) of the given frames.

    Raises:
      ValueError: it is no state of a timeline.
    """
    try:
        if not isinstance(text, str) or len(text) > LONGEST:
            raise ValueError
        found = json.loads(text)
        files = sorted((int(file["at"]), str(file["path"])) for file in found["files"])
        levels = {int(at): float(level) for at, level in found["levels"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(
            "the timeline sent nothing that can be read; load the page anew."
        ) from None
    claims.check_number("the number of given frames", len(levels), 0, claims.INPUTS)
    return tuple(path for _, path in files), tuple(sorted(levels.items()))
