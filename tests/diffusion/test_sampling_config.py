"""Settings of a clip at the edges of what they may be."""

import math

import pytest

from pusa_jax.diffusion.config import SamplingConfig


@pytest.mark.parametrize(
    "edge",
    [
        {"num_steps": 1},
        {"guidance_scale": 0.0},
        {"guidance_scale": -1.0},
        {"shift": 0.01},
        {"shift": 1.0},
        {"seed": 0},
        {"seed": 2**64 - 1},
        {"fps": 1},
        {"fps": 240},
    ],
)
def test_what_can_be_sampled_is_taken(edge):
    [(name, value)] = edge.items()
    assert getattr(SamplingConfig(**edge), name) == value


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_steps": 0}, "number of steps must be at least 1, got 0"),
        ({"guidance_scale": math.inf}, "guidance scale must be a number, got inf"),
        ({"guidance_scale": math.nan}, "guidance scale must be a number, got nan"),
        ({"shift": 0.0}, "shift must be a positive number, got 0.0"),
        ({"shift": math.inf}, "shift must be a positive number, got inf"),
        ({"shift": math.nan}, "shift must be a positive number, got nan"),
        ({"seed": -1}, f"seed must be 0 to {2**64 - 1}, got -1"),
        ({"seed": 2**64}, f"seed must be 0 to {2**64 - 1}, got {2**64}"),
        ({"fps": 0}, "fps must be 1 to 240, got 0"),
        ({"fps": 241}, "fps must be 1 to 240, got 241"),
    ],
)
def test_what_cannot_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**bad)
