"""Rule tables of the Inception-I3D network that FVD takes features from, and its channel sizes.

Two programs name the same layers: `i3d_torchscript.pt` of StyleGAN-V as kinetics_i3d_pytorch does
(`mixed_3b.branch_1.0`), `rgb_imagenet.pt` as pytorch-i3d does (`Mixed_3b.b1a`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.torchscript import is_torchscript, open_torchscript
from pusa_jax.convert.tables import SAME, Rule, TensorSource, Transform, shape_of

STEMS = ("1a", "2b", "2c")
"""Convolutions before the first Inception block, in order."""

BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
"""Inception blocks, in order."""

BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
"""Convolutions of a block, as leaves are called."""

CONV3D = Transform(lambda w: w.transpose(2, 3, 4, 1, 0), lambda k: k.transpose(4, 3, 0, 1, 2))
"""Weight (out, in, t, h, w) <-> kernel [t, h, w, in, out]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """How a program calls the layers.

    Attributes:
      stems: names of the convolutions `STEMS`.
      block: name of a block, with its number for `{}`.
      branches: names of the convolutions `BRANCHES` in a block.
      norm: name of the normalisation beside a convolution.
      head: name of the last convolution.
    """

    stems: tuple[str, ...]
    block: str
    branches: tuple[str, ...]
    norm: str
    head: str


NAMINGS = (
    Naming(
        stems=("conv3d_1a_7x7", "conv3d_2b_1x1", "conv3d_2c_3x3"),
        block="mixed_{}",
        branches=("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
        norm="batch3d",
        head="conv3d_0c_1x1",
    ),
    Naming(
        stems=("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"),
        block="Mixed_{}",
        branches=BRANCHES,
        norm="bn",
        head="logits",
    ),
)
"""Of kinetics_i3d_pytorch and of pytorch-i3d."""

_NORM = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "variance",
}
"""Tensor of a normalisation -> leaf."""


def open_i3d(path: Path) -> TensorSource:
    """Opens the weights: a TorchScript archive, or a checkpoint file of any kind.

    Raises:
      FileNotFoundError, ValueError: see `open_tensors` and `open_torchscript`.
    """
    return open_torchscript(path) if is_torchscript(path) else open_tensors(path)


def naming_of(source: TensorSource) -> tuple[Naming, str]:
    """How layers are called, and what stands before all names.

    Raises:
      ValueError: it is no such network.
    """
    for naming in NAMINGS:
        first = f"{naming.stems[0]}.conv3d.weight"
        for name in source.tensors:
            prefix = name.removesuffix(first)
            if name.endswith(first) and (not prefix or prefix.endswith(".")):
                return naming, prefix
    known = " or ".join(naming.stems[0] for naming in NAMINGS)
    raise ValueError(f"no Inception-I3D network: there is no layer {known}.")


def rules(naming: Naming, prefix: str = "") -> list[Rule]:
    """Table of a file with this naming, and with this before all names."""
    units = _units(naming)
    table = [
        Rule(f"{prefix}{unit}.conv3d.weight", f"{leaf}/conv/kernel", CONV3D)
        for leaf, unit in units.items()
    ]
    table += [
        Rule(f"{prefix}{unit}.{naming.norm}.{tensor}", f"{leaf}/norm/{part}", SAME)
        for leaf, unit in units.items()
        for tensor, part in _NORM.items()
    ]
    return [
        *table,
        Rule(f"{prefix}{naming.head}.conv3d.weight", "head/kernel", CONV3D),
        Rule(f"{prefix}{naming.head}.conv3d.bias", "head/bias", SAME),
    ]


def ignored(naming: Naming, prefix: str = "") -> Mapping[str, str]:
    """Tensors of such a file that are not read, with the reason."""
    counters = [f"{prefix}{u}.{naming.norm}.num_batches_tracked" for u in _units(naming).values()]
    return dict.fromkeys(counters, "counts batches of training")


def channels_of(source: TensorSource) -> Mapping[str, int]:
    """Output channels of every convolution, by leaf: `stem/1a`, `mixed/3b/b0`, ..., `head`.

    Raises:
      ValueError: it is no such network, or a layer is missing.
    """
    naming, prefix = naming_of(source)
    units = _units(naming) | {"head": naming.head}
    return {
        leaf: shape_of(source, f"{prefix}{unit}.conv3d.weight", 5)[0]
        for leaf, unit in units.items()
    }


def _units(naming: Naming) -> dict[str, str]:
    """Leaf -> name of every convolution that is normalised."""
    stems = {f"stem/{leaf}": name for leaf, name in zip(STEMS, naming.stems, strict=True)}
    return stems | {
        f"mixed/{block}/{leaf}": f"{naming.block.format(block)}.{name}"
        for block in BLOCKS
        for leaf, name in zip(BRANCHES, naming.branches, strict=True)
    }
