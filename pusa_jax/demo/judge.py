"""The measuring stick: what is to be seen in a clip, told from its pixels alone.

Per frame: background, the connected objects that stand out from it, and of the only one its colour,
shape, area and place. Per clip: where it goes and whether it turns back. Then `judge` holds that
against what was asked for. Colour and background alone pass on scattered blobs; what counts first
is how many frames hold exactly one object of the right area.
"""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from pusa_jax.demo.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, coverage

STANDS_OUT = 60.0
"""Distance from the background in RGB of 0..255 from which a pixel belongs to an object; the least
distance between a colour and a background is 113 (purple on grey)."""

SPECK = 6
"""Pixels; less is not counted as an object."""

AREA_TOLERANCE = 0.35
"""Share by which the area may differ from what is right."""

FAR = 110.0
"""Distance in RGB beyond which a colour is none of the world's."""

STEADY = 3.0
"""Pixels that an object must at least get along to have a direction."""

TURN = 2.0
"""Pixels that it must come back to have turned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """What is seen in one frame.

    Attributes:
      objects: number of connected objects.
      background: nearest name; empty if none is near.
      colour, shape: of the largest object; empty if there is none, or none that is near.
      area: of the largest object in pixels, its edge by how much it covers.
      place: (x, y) of its centre; NaN without object.
    """

    objects: int
    background: str
    colour: str
    shape: str
    area: float
    place: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a clip agrees with a scene; shares are of the frames that were looked at.

    Attributes:
      coherent: share with exactly one object, of the right area.
      colour, background, shape: share in which it is the right one.
      direction: whether the object goes where it should.
      path: whether it goes straight or turns back as it should.
      places: (x, y) of the centre per frame, in pixels; NaN where there is no object.
      errors: distance in pixels of the centre from where it should be, per frame; NaN likewise.
    """

    coherent: float
    colour: float
    background: float
    shape: float
    direction: bool
    path: bool
    places: Float[np.ndarray, "T 2"]
    errors: Float[np.ndarray, " T"]


def look(frame: UInt8[np.ndarray, "H W 3"]) -> Frame:
    """Describes one frame."""
    pixels = frame.astype(np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    back = np.median(edge, axis=0)
    background = _nearest(back, BACKGROUNDS)
    stands_out = np.linalg.norm(pixels - back, axis=-1) > STANDS_OUT
    labelled: Any = ndimage.label(stands_out, np.ones((3, 3)))
    labels, count = labelled
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    objects = int((sizes >= SPECK).sum())
    if not objects:
        nowhere = (math.nan, math.nan)
        return Frame(objects=0, background=background, colour="", shape="", area=0.0, place=nowhere)
    body = labels == 1 + int(sizes.argmax())
    front = _colour_of(pixels, body)
    cover = _cover(pixels, body, front, back)
    area = float(cover.sum())
    y, x = (axis + 0.5 for axis in np.indices(cover.shape))
    # Of a body of many colours the median may be that of the background: it covers nothing then.
    weight = area or math.nan
    place = float((cover * x).sum() / weight), float((cover * y).sum() / weight)
    return Frame(
        objects=objects,
        background=background,
        colour=_nearest(front, COLOURS),
        shape=_shape_of(cover, area, place) if area else "",
        area=area,
        place=place,
    )


def _nearest(colour: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    distances = {name: float(np.linalg.norm(colour - rgb)) for name, rgb in names.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < FAR else ""


def _colour_of(
    pixels: Float[np.ndarray, "H W 3"], body: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, " 3"]:
    """Median inside; the outermost pixels are mixed with the background."""
    inside = np.asarray(ndimage.binary_erosion(body), bool)
    chosen: Any = pixels[inside] if inside.any() else pixels[body]
    return np.median(chosen, axis=0)


def _cover(pixels, body, front, back) -> Float[np.ndarray, "H W"]:
    """How much of each pixel on and around a body has its colour, in [0, 1]."""
    towards = front - back
    share = (pixels - back) @ towards / max(float(towards @ towards), 1.0)
    around: Any = ndimage.binary_dilation(body, np.ones((3, 3)), iterations=2)
    return np.where(around, np.clip(share, 0, 1), 0)


def _shape_of(cover: Float[np.ndarray, "H W"], area: float, place: tuple[float, float]) -> str:
    """The shape of this area and place that covers the same pixels best."""
    radius, where = math.sqrt(area / math.pi), np.array([place])
    size = max(cover.shape)
    gaps = {}
    for shape in SHAPES:
        ideal = coverage(shape, radius, where, size)[0, : cover.shape[0], : cover.shape[1]]
        gaps[shape] = float(np.abs(ideal - cover).sum())
    return min(gaps, key=gaps.__getitem__)


def heading(places: Float[np.ndarray, "T 2"]) -> tuple[str, str]:
    """Direction and path of an object from its places; empty where they cannot be told.

    Frames without a place (NaN) are passed over. Whoever gets `TURN` pixels ahead along the axis of
    motion and comes back as far has bounced, and the way out counts.
    """
    seen = places[~np.isnan(places).any(axis=1)]
    if len(seen) < 3:
        return "", ""
    axis = int(np.ptp(seen, axis=0).argmax())
    along = ndimage.median_filter(seen[:, axis], size=3, mode="nearest")
    moved = along - along[0]
    out, back = moved, moved - moved[-1]
    turns = {sign: min((sign * out).max(), (sign * back).max()) for sign in (1, -1)}
    sign = max(turns, key=turns.__getitem__)
    path = "bouncing"
    if turns[sign] < TURN:
        sign, path = (1 if moved[-1] > 0 else -1), "straight"
        if abs(moved[-1]) < STEADY:
            return "", ""
    step = (sign, 0) if axis == 0 else (0, sign)
    return next(name for name, unit in DIRECTIONS.items() if unit == step), path


def judge(
    video: UInt8[np.ndarray, "T H W 3"], scene: Scene, given: tuple[int, ...] = ()
) -> Verdict:
    """Holds a clip against the scene it should show.

    Args:
      video: RGB.
      scene: what was asked for; only a clip that continues given frames must follow its positions.
      given: frames that were conditions; they are left out of every share, but tell where the
        object comes from.
    """
    frames = [look(frame) for frame in video]
    counted = [frame for i, frame in enumerate(frames) if i not in given]
    right_area = math.pi * scene.radius**2
    places = np.array([frame.place for frame in frames])
    direction, path = heading(places)
    seen = Counter(
        name
        for frame in counted
        for name, fits in {
            "coherent": frame.objects == 1 and abs(frame.area / right_area - 1) <= AREA_TOLERANCE,
            "colour": frame.colour == scene.colour,
            "background": frame.background == scene.background,
            "shape": frame.shape == scene.shape,
        }.items()
        if fits
    )
    count = max(len(counted), 1)
    return Verdict(
        coherent=seen["coherent"] / count,
        colour=seen["colour"] / count,
        background=seen["background"] / count,
        shape=seen["shape"] / count,
        direction=direction == scene.direction,
        path=path == scene.path,
        places=places,
        errors=np.linalg.norm(places - scene.positions[: len(places)], axis=1),
    )
