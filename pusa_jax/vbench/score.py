"""From VBench's results to the total that is published.

Each score is brought to 0 to 1 between the least and the most that VBench has met, then weighed:
quality is the mean of six, image-to-video the mean of three, the total the mean of both. Source:
scripts/constant.py and scripts/cal_i2v_final_score.py of github.com/Vchitect/VBench (commits
7975661 and 884b25e).
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pusa_jax.listing import listed

Part = Literal["quality", "i2v"]


@dataclasses.dataclass(frozen=True)
class Dimension:
    """How one score counts.

    Attributes:
      short: its name in tables.
      part: which of the two means it belongs to.
      least: score that counts as 0.
      most: score that counts as 1.
      weight: in the mean of its part.
    """

    short: str
    part: Part
    least: float = 0.0
    most: float = 1.0
    weight: float = 1.0


DIMENSIONS: Mapping[str, Dimension] = {
    "subject_consistency": Dimension("SC", "quality", 0.1462),
    "background_consistency": Dimension("BC", "quality", 0.2615),
    "motion_smoothness": Dimension("MS", "quality", 0.7060, 0.9975),
    "dynamic_degree": Dimension("DD", "quality", weight=0.5),
    "aesthetic_quality": Dimension("AQ", "quality"),
    "imaging_quality": Dimension("IQ", "quality"),
    "i2v_subject": Dimension("I2V-S", "i2v", 0.1462),
    "i2v_background": Dimension("I2V-B", "i2v", 0.2615),
    "camera_motion": Dimension("CM", "i2v", weight=0.1),
}
"""VBench's name of a score -> how it counts, in the order of the paper's tables."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Total:
    """What is published of a model, all 0 to 1.

    Attributes:
      total: mean of the other two.
      i2v: whether the video keeps to its image and its prompt's camera.
      quality: of the video by itself.
    """

    total: float
    i2v: float
    quality: float


def total_of(scores: Mapping[str, float]) -> Total:
    """The published total of the scores of all `DIMENSIONS`, each 0 to 1."""
    quality, i2v = (_mean(scores, part) for part in ("quality", "i2v"))
    return Total(total=(quality + i2v) / 2, i2v=i2v, quality=quality)


def _mean(scores: Mapping[str, float], part: str) -> float:
    own = {name: one for name, one in DIMENSIONS.items() if one.part == part}
    counted = [
        one.weight * (scores[name] - one.least) / (one.most - one.least)
        for name, one in own.items()
    ]
    return sum(counted) / sum(one.weight for one in own.values())


def read_scores(paths: Iterable[Path]) -> dict[str, float]:
    """The score of every dimension from result files of VBench, or folders of them.

    A file is {dimension: [score, rows of single videos]}; VBench writes one for each dimension, or
    one for several.

    Raises:
      FileNotFoundError: no such file, or a folder without one.
      ValueError: it is of another form, a dimension is missing or there twice with another score.
    """
    paths, found = list(paths), dict[str, float]()
    for file in (each for path in paths for each in _files(path)):
        for name, score in _scores_in(file).items():
            if found.setdefault(name, score) != score:
                raise ValueError(f"{file} has another {name} than a file before: {score}.")
    missing = [name for name in DIMENSIONS if name not in found]
    if missing:
        raise ValueError(
            f"{listed(paths, 3)} {'has' if len(paths) == 1 else 'have'} no {', '.join(missing)}; "
            "the total needs all nine: give the files of the others as well."
        )
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.glob("*.json") if not each.stem.endswith("full_info"))
    if not files:
        raise FileNotFoundError(f"{path} has no result of VBench, as NAME_eval_results.json.")
    return files


def _scores_in(file: Path) -> dict[str, float]:
    try:
        table = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file or folder {file}.") from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error!s:.80}).") from None
    if not isinstance(table, dict):
        raise ValueError(f"{file} is no result of VBench: it is no table of dimensions.")
    known = {name: entry for name, entry in table.items() if name in DIMENSIONS}
    if not known:
        raise ValueError(
            f"{file} is no result of VBench-I2V: it has {listed([*table], 5)}, and none of "
            f"{', '.join(DIMENSIONS)}."
        )
    return {name: _score(file, name, entry) for name, entry in known.items()}


def _score(file: Path, name: str, entry: Any) -> float:
    value = entry[0] if isinstance(entry, list) and entry else entry
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{file}: {name} is no [score, videos], got {entry!r:.60}.")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(
            f"{file}: {name} is {value:g}, expected 0 to 1: it is of another version of VBench."
        )
    return float(value)
