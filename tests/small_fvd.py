"""A tiny I3D network on disk, and folders of videos to compare with it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from clips import write

from pusa_jax.convert import i3d as table
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.tables import LeafTensors
from pusa_jax.evaluation.i3d import I3DConfig, build
from pusa_jax.weights.leaves import shapes_for

BLOCKS = tuple((name, (2, 2, 2, 2, 2, 2)) for name in table.BLOCKS)
CONFIG = I3DConfig(stem=(3, 3, 4), mixed=BLOCKS, classes=5, size=32)


def write_network(path: Path, seed: int = 0) -> Path:
    """Random weights as a state dict in the naming of `i3d_torchscript.pt`."""
    rng, leaves = np.random.default_rng(seed), {}
    for name, shape in shapes_for(build, CONFIG).items():
        if name.endswith("variance"):
            value = rng.uniform(0.5, 1.5, shape.shape)
        elif name.endswith("kernel"):
            value = rng.standard_normal(shape.shape) * (2 / np.prod(shape.shape[:-1])) ** 0.5
        else:
            value = rng.standard_normal(shape.shape) * 0.1 + name.endswith("scale")
        leaves[name] = jnp.asarray(value, jnp.float32)
    write_torch_zip(path, LeafTensors(leaves, table.rules(table.NAMINGS[0])))
    return path


def write_videos(folder: Path, lengths: list[int], seed: int = 0) -> Path:
    """Videos of squares of colours that move, named 0.mp4, 1.mp4 and so on."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number, length in enumerate(lengths):
        colours = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        frames = np.stack([np.roll(colours, 2 * t * (number % 3), axis=1) for t in range(length)])
        write(folder / f"{number}.mp4", frames)
    return folder
