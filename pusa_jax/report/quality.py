"""How alike two frames are, and how far a colour is from another: the published formulae.

PSNR    10 log10(255² / mean squared error), over all three colours, in decibels
SSIM    Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13: of luma, under a window of 11 x 11 with
        Gaussian weights (sigma 1.5), averaged over all places where the window lies inside
ΔE      CIE 1976: distance in L*a*b*, of sRGB under D65; 2.3 is just noticed
"""

import numpy as np
from jaxtyping import Float, Num
from scipy import ndimage

RADIUS, SIGMA = 5, 1.5
"""Of the window of SSIM, in pixels."""

BAND = 64
"""Rows of which the similarity is computed at once, so that little memory is needed."""

K1, K2, RANGE = 0.01, 0.03, 255.0
"""Constants of the paper, and the range of pixels."""

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue, BT.709."""


def luma(frame: Num[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Brightness as it is stored, 0 .. 255, in float64."""
    red, green, blue = (frame[..., i] * weight for i, weight in enumerate(LUMA))
    return red + green + blue


def squared_error(one: Num[np.ndarray, "*T H W 3"], other: Num[np.ndarray, "*T H W 3"]) -> float:
    """Mean over pixels and colours."""
    return float(np.square(one.astype(np.float32) - other.astype(np.float32)).mean(dtype=float))


def psnr(error: float) -> float:
    """Decibels of a mean squared error; infinite for 0."""
    return float("inf") if error == 0 else float(10 * np.log10(RANGE**2 / error))


def ssim(one: Float[np.ndarray, "H W"], other: Float[np.ndarray, "H W"]) -> float:
    """Structural similarity of two brightnesses in 0 .. 255; NaN where no window fits."""
    height, width = (side - 2 * RADIUS for side in one.shape)
    if min(height, width) < 1:
        return float("nan")
    bands = (slice(row, row + BAND + 2 * RADIUS) for row in range(0, height, BAND))
    return sum(_alike(one[band], other[band]) for band in bands) / (height * width)


def _alike(one: Float[np.ndarray, "h W"], other: Float[np.ndarray, "h W"]) -> float:
    """Sum of the similarities at all places where the window lies inside."""
    a, b = _smooth(one), _smooth(other)
    ab = a * b
    aa, bb = a * a, b * b
    spread = _smooth(one * one) + _smooth(other * other) - aa - bb
    shared = _smooth(one * other) - ab
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    return float(((2 * ab + c1) * (2 * shared + c2) / ((aa + bb + c1) * (spread + c2))).sum())


def _smooth(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """Weighted means under the window, where it lies inside."""
    places = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-0.5 * np.square(places / SIGMA))
    weights /= weights.sum()
    inner = slice(RADIUS, -RADIUS)
    rows = ndimage.correlate1d(values, weights, axis=0)[inner]
    return ndimage.correlate1d(rows, weights, axis=1)[:, inner]


def lab(colours: Float[np.ndarray, "*T 3"]) -> Float[np.ndarray, "*T 3"]:
    """L*a*b* of sRGB in 0 .. 255, under D65."""
    stored = colours / RANGE
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.asarray(_XYZ).T / np.asarray(_WHITE)
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(cube, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""Linear sRGB to XYZ."""

_WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of D65, two degrees."""


def drift(colours: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, " T"]:
    """ΔE of the colour of each frame from that of the first."""
    values = lab(colours)
    return np.linalg.norm(values - values[0], axis=-1)
