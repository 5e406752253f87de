"""Clips of one coloured shape that moves over a plain background, with their exact truth.

    World --(seed, index)--> Scene --paint--> uint8 [T, H, W, 3]
                               `--> caption, positions, colour, ...

A scene is a function of the world, a seed and a number, and of nothing else: the same everywhere
and in any order. x runs to the right and y down, in pixels; the centre of the first pixel is
(0.5, 0.5).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, UInt8

COLOURS = {
    "red": (224, 48, 48),
    "green": (48, 192, 64),
    "blue": (56, 80, 232),
    "yellow": (232, 216, 48),
    "purple": (168, 56, 200),
    "cyan": (48, 208, 216),
}
"""Name -> RGB of the shapes."""

BACKGROUNDS = {"black": (8, 8, 8), "white": (248, 248, 248), "grey": (128, 128, 128)}
"""Name -> RGB behind them."""

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
"""Name -> unit vector (x, y)."""

SHAPES = ("circle", "square", "triangle")

_SQUARE = math.sqrt(math.pi) / 2
_TRIANGLE = math.sqrt(math.pi / (3 * math.sqrt(3)))
"""Half a side, and the radius of the inscribed circle, of the shapes that have the area of a circle
of radius 1."""

REACH = {"circle": 1.0, "square": _SQUARE, "triangle": 2 * _TRIANGLE}
"""How far a shape of radius 1 reaches from its centre along an axis, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What there is to see; every combination occurs equally often.

    Attributes:
      size: height and width of the frames in pixels.
      num_frames: frames of a clip.
      colours, backgrounds, shapes, directions: names.
      paths: "straight" ends before the edge; "bouncing" turns back at it once.
      radius: least and greatest radius in pixels, of the circle of equal area.
      speed: least and greatest speed in pixels per frame.
    """

    size: int = 48
    num_frames: int = 33
    colours: tuple[str, ...] = ("red", "green", "blue")
    backgrounds: tuple[str, ...] = ("black",)
    shapes: tuple[str, ...] = ("circle",)
    directions: tuple[str, ...] = tuple(DIRECTIONS)
    paths: tuple[str, ...] = ("straight",)
    radius: tuple[float, float] = (7.0, 7.0)
    speed: tuple[float, float] = (0.75, 0.75)


NARROW = World()
"""Twelve captions."""

WIDE = World(
    colours=tuple(COLOURS),
    backgrounds=tuple(BACKGROUNDS),
    shapes=SHAPES,
    paths=("straight", "bouncing"),
    radius=(5.5, 6.5),
    speed=(0.5, 0.75),
)
"""432 captions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth about a clip.

    Attributes:
      colour, background, shape, direction, path: names; the direction is the first heading.
      radius: in pixels, of the circle of equal area.
      positions: (x, y) of the centre in every frame, float64 pixels.
      size: height and width of the frames.
    """

    colour: str
    background: str
    shape: str
    direction: str
    path: str
    radius: float
    positions: Float[np.ndarray, "T 2"]
    size: int

    @property
    def caption(self) -> str:
        """What is seen, in words."""
        turn = " and bounces" if self.path == "bouncing" else ""
        return f"a {self.colour} {self.shape} moves {self.direction}{turn} on {self.background}"


def draw(world: World, seed: int, index: int) -> Scene:
    """Scene `index` of the sequence that a seed stands for."""
    rng = np.random.default_rng((seed, index))
    pick = lambda names: names[rng.integers(len(names))]  # noqa: E731
    colour, background, shape = (pick(x) for x in (world.colours, world.backgrounds, world.shapes))
    direction, path = pick(world.directions), pick(world.paths)
    radius, speed = rng.uniform(*world.radius), rng.uniform(*world.speed)
    low = 1.5 + radius * REACH[shape]
    high = world.size - low
    travelled = speed * np.arange(world.num_frames)
    if path == "straight":
        along = travelled + rng.uniform(low, high - travelled[-1])
    else:
        turn = rng.uniform(0.3, 0.7) * travelled[-1]
        along = high - np.abs(travelled - turn)
    across = np.full_like(along, rng.uniform(low, high))
    dx, dy = DIRECTIONS[direction]
    if dx + dy < 0:
        along = world.size - along
    return Scene(
        colour=colour,
        background=background,
        shape=shape,
        direction=direction,
        path=path,
        radius=radius,
        positions=np.stack([along, across] if dx else [across, along], axis=1),
        size=world.size,
    )


def render(scene: Scene) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a scene."""
    cover = coverage(scene.shape, scene.radius, scene.positions, scene.size)
    return paint(cover, COLOURS[scene.colour], BACKGROUNDS[scene.background])


def coverage(
    shape: str, radius: float, positions: Float[np.ndarray, "T 2"], size: int
) -> Float[np.ndarray, "T size size"]:
    """How much of each pixel a shape covers, in [0, 1]: its edges are one pixel wide."""
    grid = np.arange(size, dtype=np.float32) + 0.5
    centres = positions.astype(np.float32)
    x = (grid - centres[:, :1])[:, None, :]
    y = (grid - centres[:, 1:])[:, :, None]
    match shape:
        case "circle":
            outside = np.sqrt(x * x + y * y) - radius
        case "square":
            outside = np.maximum(np.abs(x), np.abs(y)) - _SQUARE * radius
        case _:
            slope = math.sqrt(3) / 2 * np.abs(x) - y / 2
            outside = np.maximum(slope, y) - _TRIANGLE * radius
    return np.clip(0.5 - outside, 0, 1)


def paint(
    cover: Float[np.ndarray, "T H W"],
    colour: tuple[int, int, int] | Float[np.ndarray, " 3"],
    background: tuple[int, int, int] | Float[np.ndarray, " 3"],
) -> UInt8[np.ndarray, "T H W 3"]:
    """Mixes two colours of 0..255."""
    front, back = np.asarray(colour, np.float32), np.asarray(background, np.float32)
    return np.rint(back + cover[..., None].astype(np.float32) * (front - back)).astype(np.uint8)


def draw_any(
    rng: np.random.Generator, size: int, num_frames: int
) -> UInt8[np.ndarray, "T size size 3"]:
    """A clip beyond all worlds, for an autoencoder: any colours, heading, speed and shape.

    One clip in three has the worlds' colours. The others have any two that differ by at least 80 of
    255 in one channel. The shape bounces off the edges of the frame.
    """
    shape = SHAPES[rng.integers(len(SHAPES))]
    radius, speed, angle = rng.uniform(4.5, 8), rng.uniform(0, 1.2), rng.uniform(0, 2 * math.pi)
    low = radius + 0.5
    room = size - 2 * low
    heading = np.array([math.cos(angle), math.sin(angle)])
    straight = rng.uniform(0, room, 2) + speed * np.arange(num_frames)[:, None] * heading
    positions = low + room - np.abs(straight % (2 * room) - room)
    cover = coverage(shape, radius, positions, size)
    if rng.random() < 1 / 3:
        front, back = list(COLOURS.values()), list(BACKGROUNDS.values())
        return paint(cover, front[rng.integers(len(front))], back[rng.integers(len(back))])
    while True:
        colour, background = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        if np.abs(colour - background).max() >= 80:
            return paint(cover, colour, background)
