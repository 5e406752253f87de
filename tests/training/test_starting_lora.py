"""Training that goes on from the adapters in a LoRA file."""

import dataclasses

import numpy as np
import pytest
from small import settings
from test_startup import RUN, opened, placed, start

from pusa_jax.convert.lora import write_lora
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.adapters import AdapterConfig, as_lora
from pusa_jax.models.lora import Difference, LoRA, LowRank, Target, merge

RNG = np.random.default_rng(0)
UP, DOWN = Target("blocks/ffn/up", 0), Target("blocks/ffn/down", 0)


def low_rank(rank=2, into=32, out=48):
    factors = RNG.standard_normal((rank, into)), RNG.standard_normal((out, rank))
    return LowRank(*(x.astype(np.float32) for x in factors))


def starting(path, modules, **changes):
    """The small run with adapters on `blocks/ffn/up`, starting from a file."""
    write_lora(path, LoRA(modules), WAN21.lora, dtype="float32")
    adapter = dataclasses.replace(RUN.adapter, init=str(path), **changes)
    return dataclasses.replace(RUN, adapter=adapter)


@pytest.mark.parametrize("alpha", [2.0, 4.0, 32.0])
def test_adapters_add_at_first_what_the_file_adds_at_strength_1(tmp_path, alpha):
    run = starting(tmp_path / "x.safetensors", {UP: low_rank()}, alpha=alpha)
    begun = start(run, opened(tmp_path))
    assert begun.step == 0 and begun.source.endswith("x.safetensors at strength 1")
    lora = LoRA({UP: low_rank()})
    written = starting(tmp_path / "y.safetensors", lora.modules, alpha=alpha)
    state = start(written, opened(tmp_path)).state
    leaves = {"blocks/ffn/up/kernel": np.zeros((1, 32, 48), np.float32)}
    ours, theirs = (
        np.asarray(merge(leaves, one)["blocks/ffn/up/kernel"])
        for one in (as_lora(state.params, alpha), lora)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    ema = state.ema
    assert all(np.array_equal(ema[path], leaf) for path, leaf in state.params.items())
    where = placed(written.recipe).state.params
    assert all(leaf.sharding == where[path].sharding for path, leaf in state.params.items())


REFUSED = [
    ({UP: low_rank(3)}, r"it has rank 3, the run trains adapter\.rank=2; set adapter\.rank=3"),
    ({DOWN: low_rank(into=48, out=32)}, "it lacks what the run trains: blocks/ffn/up of layer 0"),
    (
        {UP: low_rank(), DOWN: low_rank(into=48, out=32)},
        "it has more than what the run trains: blocks/ffn/down of layer 0; add them",
    ),
    ({UP: low_rank(into=31)}, "do not fit the model: blocks/ffn/up of layer 0 is 48x31"),
    ({UP: low_rank(), Target("blocks/ffn/up", 1): low_rank()}, "no blocks/ffn/up of layer 1"),
]


@pytest.mark.parametrize(("modules", "message"), REFUSED)
def test_a_file_of_other_ranks_or_layers_is_refused_with_what_to_set(tmp_path, modules, message):
    run = starting(tmp_path / "x.safetensors", modules)
    with pytest.raises(ValueError, match=r"adapter\.init: .*x\.safetensors: .*" + message):
        start(run, opened(tmp_path))


def test_a_file_with_nan_or_full_differences_is_refused(tmp_path):
    bad = low_rank()
    bad.up[3, 1] = np.inf
    from pusa_jax.models.adapters import from_lora
    from pusa_jax.training.step import model_shapes

    shapes = model_shapes(RUN.recipe)
    with pytest.raises(ValueError, match="1 of 96 values"):
        from_lora(LoRA({UP: bad}), shapes, RUN.adapter)
    more = {Target("blocks/ffn/up/bias", 0): Difference(np.zeros(48, np.float32))}
    with pytest.raises(ValueError, match="holds full differences beside"):
        from_lora(LoRA({UP: low_rank()}, differences=more), shapes, RUN.adapter)


def test_a_missing_file_and_an_unknown_word_are_one_line(tmp_path):
    adapter = dataclasses.replace(RUN.adapter, init=str(tmp_path / "none.pt"))
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        start(dataclasses.replace(RUN, adapter=adapter), opened(tmp_path))
    with pytest.raises(ValueError, match="kaiming or gaussian or a LoRA file, got 'kaming'"):
        AdapterConfig(targets=".", init="kaming")
    assert settings().adapter.file is None
