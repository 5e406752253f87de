"""Schedule, sharding rules and formulae of Mochi."""

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.devices.sharding import unused_rules
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.grids import linear_quadratic
from pusa_jax.models.mochi import flops, sharding
from pusa_jax.models.mochi.config import DiTConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.schedule import sampling_table
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.weights.leaves import shapes_of

PUBLISHED_30 = (
    "1 .998333 .996667 .995 .993333 .991667 .99 .988333 .986667 .985 .983333 .981667 .98 .978333 "
    ".976667 .975 .969111 .954778 .932 .900778 .861111 .813 .756444 .691444 .618 .536111 .445778 "
    ".347 .239778 .124111 0"
)
"""Of 30 steps, as the fact sheet has them."""


def test_thirty_steps_are_the_published_ones():
    expected = [float(x) for x in PUBLISHED_30.split()]
    np.testing.assert_allclose(linear_quadratic(30), expected, atol=5e-7)


def test_the_parabola_goes_on_with_the_slope_of_the_line():
    schedule = linear_quadratic(10_000)
    before, after = np.diff(schedule)[[4998, 5000]]
    assert after == pytest.approx(before, rel=2e-2)
    assert (np.diff(schedule) < 0).all()


def test_the_fast_schedule_has_six_linear_steps_of_eight():
    schedule = linear_quadratic(8, 0.1, 6)
    np.testing.assert_allclose(np.diff(schedule)[:6], -0.1 / 6)
    assert schedule[[0, 6, 8]].tolist() == pytest.approx([1, 0.9, 0])


def test_a_single_step_goes_all_the_way():
    assert linear_quadratic(1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0,), "number of steps must be at least 1, got 0"),
        ((8, 0.0), r"threshold must be in \(0, 1\), got 0.0"),
        ((8, 0.1, 8), "linear steps must be 1 to 7, got 8"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        linear_quadratic(*args)


def test_a_frame_at_multiplier_zero_is_told_that_it_is_clean_and_stays():
    table = sampling_table(
        SamplingConfig(num_steps=4),
        np.asarray([0, 0.4, 1]),
        is_conditioned=True,
        compute_dtype="bfloat16",
    )
    assert table.timesteps[:, 0].tolist() == [1000] * 4
    assert (table.step_sizes[:, 0] == 0).all()
    np.testing.assert_allclose(table.step_sizes.sum(0), [0, -0.4, -1], atol=1e-6)
    np.testing.assert_allclose(table.timesteps[:, 1], 1000 - 400 * table.levels, rtol=1e-6)


@pytest.mark.parametrize(
    ("rules", "build"),
    [
        (sharding.DIT, lambda: MochiDiT(DiTConfig(), rngs=nnx.Rngs(0))),
        (sharding.TEXT, lambda: T5Encoder(TextConfig(shared_positions=True), rngs=nnx.Rngs(0))),
    ],
    ids=["dit", "text"],
)
def test_no_rule_is_for_nothing_and_no_large_leaf_stays_whole(rules, build):
    shapes = shapes_of(build)
    adapters = {"lora_a", "lora_b"}
    assert not [r for r in unused_rules(shapes, rules) if not any(a in r for a in adapters)]
    import re

    for path, leaf in shapes.items():
        rule = next(spec for pattern, spec in rules if re.search(pattern, path))
        assert leaf.size < 2**22 or any(rule), path


def test_flops_are_those_that_the_compiler_counts():
    """At a size without loops: the compiler counts the body of a scan once."""
    config = DiTConfig(
        dim=64, context_dim=48, ffn_dim=96, context_ffn_dim=80, num_heads=4, num_layers=2,
        pool_heads=2, text_dim=40, text_len=8, freq_dim=32,
    )  # fmt: skip
    dit = nnx.eval_shape(lambda: MochiDiT(config, rngs=nnx.Rngs(0)))
    shape = (1, 4, 8, 12, 12)
    text = jax.eval_shape(lambda d, t: d.prepare_text(t), dit, np.zeros((1, 8, 40), np.float32))
    args = (dit, np.zeros(shape, np.float32), np.zeros((1, 4), np.float32), text)
    counted = jax.jit(lambda d, x, t, y: d(x, t, y)).lower(*args).cost_analysis()["flops"]
    assert flops.velocity_flops(config, shape) == pytest.approx(counted, rel=0.1)
