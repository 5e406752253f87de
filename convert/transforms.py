"""Changes of layout that families share: convolutions as linear layers, and of pictures."""

from pusa_jax.convert.tables import Transform

CONV2D = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1))
"""Conv weight (O, C, h, w) <-> kernel (h, w, C, O)."""

POINT2D = Transform(lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
"""Conv weight (O, C, 1, 1) <-> kernel of a linear layer (C, O)."""


def patches(patch_size: tuple[int, int, int]) -> Transform:
    """Conv weight (D, C, ph, pw) <-> kernel (ph pw C, D), channels fastest."""
    _, ph, pw = patch_size
    return Transform(
        lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
        lambda k: k.reshape(ph, pw, -1, k.shape[-1]).transpose(3, 2, 0, 1),
    )
