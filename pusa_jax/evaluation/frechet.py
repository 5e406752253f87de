"""The Fréchet distance of two sets of features, each taken for a Gaussian (FID, FVD).

|m1 - m2|^2 + Tr(C1 + C2 - 2 sqrt(C1 C2))        m mean, C covariance

Parity: sums are kept in float64, of features in float32, and covariances are divided by N, not by
N - 1 (StyleGAN-V's metric code, `fvdm_eval` of the recordings): with few clips it shows.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums of features, of which those of several parts of a set can be added.

    Attributes:
      count: features that were summed.
      total: their sum, float64 [D].
      products: sum of their outer products, float64 [D, D].
    """

    count: int
    total: Float64[np.ndarray, "D"]
    products: Float64[np.ndarray, "D D"]

    @property
    def mean(self) -> Float64[np.ndarray, "D"]:
        """Mean of the features."""
        return self.total / self.count

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """Covariance of the features, divided by their number."""
        return self.products / self.count - np.outer(self.mean, self.mean)


def statistics(features: Float32[np.ndarray, "N D"]) -> Statistics:
    """Sums the features of some clips.

    Raises:
      ValueError: there are none, or a value is not finite.
    """
    if not len(features):
        raise ValueError("there are no features; at least those of one clip are needed.")
    if not np.isfinite(features).all():
        odd = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(f"the features of {odd} of {len(features)} clips are not finite.")
    wide = features.astype(np.float64)
    return Statistics(count=len(wide), total=wide.sum(axis=0), products=wide.T @ wide)


def nothing(width: int) -> Statistics:
    """The statistics of no clips, to be merged with those of others."""
    return Statistics(count=0, total=np.zeros(width), products=np.zeros((width, width)))


def merged(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of several parts of a set together."""
    first, *others = parts
    count, total, products = first.count, first.total.copy(), first.products.copy()
    for part in others:
        count += part.count
        total += part.total
        products += part.products
    return Statistics(count=count, total=total, products=products)


def distance(real: Statistics, generated: Statistics) -> float:
    """The Fréchet distance.

    The trace of the root of C1 C2 is the sum of the singular values of R1^T R2, where C = R R^T.
    Where covariances have full rank this is what `scipy.linalg.sqrtm` gives; where there are fewer
    clips than features, that root does not converge (fvdm.md §6.2: -3.5e14 to 1e11), and this does.

    Raises:
      ValueError: the features are of different widths.
    """
    if real.total.shape != generated.total.shape:
        raise ValueError(
            f"real clips have {len(real.total)} features, generated ones {len(generated.total)}; "
            "use one network for both."
        )
    gap = np.square(generated.mean - real.mean).sum()
    of_real, of_generated = _root(real.covariance), _root(generated.covariance)
    shared = np.linalg.svd(of_real.T @ of_generated, compute_uv=False).sum()
    spread = np.square(of_real).sum() + np.square(of_generated).sum()
    return float(gap + spread - 2 * shared)


def _root(covariance: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """R with R R^T = C; directions in which nothing varies, up to rounding, are left out."""
    variances, directions = np.linalg.eigh(covariance)
    least = variances[-1] * len(variances) * np.finfo(np.float64).eps
    return directions * np.sqrt(np.where(variances > least, variances, 0))
