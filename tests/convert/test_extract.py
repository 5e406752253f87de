"""A LoRA out of two models: the best of its rank, in any layout, and honest about what it lacks."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pusa_jax.cli.main import main
from pusa_jax.convert.extract import extract_lora, low_rank
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.export import export_folder
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.models.lora import Target, merge
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import assert_close

DIT = DiTConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=8, freq_dim=16, text_len=6)
SINGULAR = (3.0, 2.0, 1.0)


def write(folder, leaves, layout):
    export_folder([("dit", DIT, leaves)], folder, family=WAN21, layout=layout)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base in the original layout and a tuned model in all three, with its leaves and theirs."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    shapes = WAN21.networks["dit"].shapes(DIT)
    base = {p: rng.standard_normal(s.shape).astype(np.float32) for p, s in shapes.items()}
    tuned = dict(base)
    for name in ("self_attn/q", "ffn/down"):
        path = f"blocks/{name}/kernel"
        _, into, out = base[path].shape
        u, v = (np.linalg.qr(rng.standard_normal((2, n, 3)))[0] for n in (into, out))
        tuned[path] = base[path] + ((u * SINGULAR) @ v.swapaxes(1, 2)).astype(np.float32)
    write(folder / "base", base, "original")
    write(folder / "original", tuned, "original")
    write(folder / "diffusers", tuned, "diffusers")
    convert_folder(folder / "original", folder / "converted")
    return folder, base, tuned


@pytest.mark.parametrize("layout", ["original", "diffusers", "converted"])
def test_a_difference_of_low_rank_comes_back(models, layout):
    folder, base, tuned = models
    found = extract_lora(
        ModelFolder(folder / layout), ModelFolder(folder / "base"), 3, dtype="float32"
    )
    assert set(found.lora.modules) == {
        Target(path, layer)
        for path in ("blocks/self_attn/q", "blocks/ffn/down")
        for layer in (0, 1)
    }
    assert found.captured == pytest.approx(1, abs=1e-6)
    assert not found.others and found.left_out == 0
    merged = merge(base, found.lora)
    for path in base:
        assert_close(merged[path], tuned[path], 1e-6, path)


def test_the_largest_directions_are_kept_and_their_share_is_said(models, tmp_path, capsys):
    folder, base, tuned = models
    found = extract_lora(
        ModelFolder(folder / "original"), ModelFolder(folder / "base"), 1, dtype="float32"
    )
    assert found.captured == pytest.approx(9 / 14, rel=1e-5)
    assert found.least[1] == pytest.approx(9 / 14, rel=1e-5)
    path = "blocks/self_attn/q"
    delta = tuned[f"{path}/kernel"][0] - base[f"{path}/kernel"][0]
    module = found.lora.modules[Target(path, 0)]
    left = np.linalg.norm(delta - (module.up @ module.down).T)
    assert left == pytest.approx(5**0.5, rel=1e-5)  # what Eckart and Young allow
    assert np.linalg.norm(module.up) == pytest.approx(np.linalg.norm(module.down), rel=1e-5)
    line = ["extract-lora", "--tuned", folder / "converted", "--base", folder / "base"]
    line += ["--rank", "1", "--dst", tmp_path / "x.safetensors"]
    assert main([str(word) for word in line]) == 0
    assert "4 layers at rank 1 hold 64.29% of their difference" in capsys.readouterr().out
    assert len(load_file(tmp_path / "x.safetensors")) == 8


def test_the_layer_that_is_held_least_is_that_of_the_least_share(models, tmp_path):
    """Neither that of the least energy, nor of the least that is kept, nor the first."""
    folder, base, _ = models
    first, path = "blocks/ffn/down/kernel", "blocks/self_attn/q/kernel"
    tuned = {first: base[first].copy(), path: base[path].copy()}
    for name, layer, values in (
        (first, 0, (100, 30)),  # 91.7 % of 10900 at rank 1, what is left out is the most
        (path, 0, (1, 0.1)),  # 99 % of little
        (path, 1, (20, 20)),  # a half of 800
    ):
        for i, value in enumerate(values):
            tuned[name][layer, i, i] += value
    write(tmp_path / "tuned", base | tuned, "original")
    found = extract_lora(
        ModelFolder(tmp_path / "tuned"), ModelFolder(folder / "base"), 1, dtype="float32"
    )
    assert found.least[0] == Target("blocks/self_attn/q", 1)
    assert found.least[1] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("fall", "short"), [(0.7, 1e-5), (0.0, 1e-2)])
def test_the_directions_found_are_nearly_the_best(fall, short):
    matrix = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s *= np.arange(1, 301) ** -fall
    *factors, kept, whole = low_rank(jnp.asarray((u * s) @ vt), 16)
    best = (s[:16] ** 2).sum()
    assert best * (1 - short) < kept < best * (1 + 1e-5)
    assert whole == pytest.approx((s**2).sum(), rel=1e-5)
    down, up = map(np.asarray, factors)
    left = np.linalg.norm((u * s) @ vt - (up @ down).T) ** 2
    assert left == pytest.approx(float(whole - kept), rel=1e-4)


def test_what_no_adapter_can_hold_is_said(models, tmp_path):
    folder, base, tuned = models
    norm, head = "blocks/norm3/scale", "head/linear/kernel"
    more = tuned | {norm: tuned[norm] + 1, head: tuned[head] + 0.5}
    write(tmp_path / "more", more, "original")
    found = extract_lora(ModelFolder(tmp_path / "more"), ModelFolder(folder / "base"), 3)
    outside = 2 * 24 + base[head].size / 4
    assert set(found.others) == {norm, head}
    assert found.left_out == pytest.approx(outside / (outside + 4 * 14), rel=1e-4)
    found = extract_lora(
        ModelFolder(tmp_path / "more"),
        ModelFolder(folder / "base"),
        3,
        targets="head/linear|blocks/.*",
    )
    assert Target("head/linear") in found.lora.modules and found.others == (norm,)


def test_bad_requests_are_one_line_and_write_nothing(models, tmp_path, capsys):
    folder, base, _ = models
    small = dataclasses.replace(DIT, num_layers=1)
    cut = {p: x[:1] if p.startswith("blocks/") else x for p, x in base.items()}
    export_folder([("dit", small, cut)], tmp_path / "small", family=WAN21)
    nan = tmp_path / "nan"
    up = "blocks/ffn/up/kernel"
    write(nan, base | {up: np.full_like(base[up], 1.0)}, "original")
    (file,) = nan.glob("*.safetensors")
    ones = np.ones(base[up].size, "<f4").tobytes()
    assert file.read_bytes().count(ones) == 1
    file.write_bytes(
        file.read_bytes().replace(ones, np.full(base[up].size, np.nan, "<f4").tobytes())
    )
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    tuned, dst = folder / "original", tmp_path / "x.safetensors"
    before = sorted(tmp_path.iterdir())
    for flags, message in (
        ({"tuned": tmp_path / "small"}, "are models of other sizes: blocks/"),
        ({"tuned": folder / "base"}, "do not differ in the layers"),
        ({"tuned": nan}, "of blocks.0.ffn.0.weight are NaN or infinite"),
        ({"tuned": tmp_path / "absent"}, "absent"),
        ({"tuned": tmp_path / "other.safetensors"}, "other.safetensors has no DiT"),
        ({"rank": 0}, "rank must be 1 to 24 for these layers, got 0"),
        ({"rank": 25}, "rank must be 1 to 24 for these layers, got 25"),
        ({"targets": "nothing"}, "'nothing' matches no layer; there are blocks/"),
        ({"dst": tmp_path / "x.pt"}, "ends in .safetensors"),
        ({"dst": tmp_path / "no" / "x.safetensors"}, "there is no folder"),
    ):
        line = {"tuned": tuned, "base": folder / "base", "rank": 2, "dst": dst} | flags
        words = [str(word) for name, value in line.items() for word in (f"--{name}", value)]
        code, out = main(["extract-lora", *words]), capsys.readouterr()
        *_, line = out.err.splitlines()  # progress may come before
        assert code == 2 and line.startswith("pusa-jax: error: ") and message in line, out.err
        assert sorted(tmp_path.iterdir()) == before
    assert ModelFolder(tuned).load("dit")  # and the models are as they were


def test_a_shape_is_compiled_for_once(models):
    folder, *_ = models
    low_rank.clear_cache()
    extract_lora(ModelFolder(folder / "original"), ModelFolder(folder / "base"), 3)
    assert low_rank._cache_size() == 3  # square, wide and tall, in two layers each
