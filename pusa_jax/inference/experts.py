"""Denoisers that share the noise levels of a run."""

import dataclasses

from flax import nnx


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expert:
    """A denoiser and the noise levels it serves.

    Attributes:
      dit: the denoiser.
      first_level: it serves scheduled levels from this one up to the next expert's.
    """

    dit: nnx.Module
    first_level: float = 0.0
