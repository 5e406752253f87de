"""Full differences in LoRA files, values that are not finite, and what an export is written in."""

import json

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.folders.lora_files import export_lora
from pusa_jax.convert.folders.merging import read_adapters, remarks
from pusa_jax.convert.folders.summary import summary
from pusa_jax.convert.lora import parse_lora, read_lora
from pusa_jax.convert.mochi.foreign import MOCHI
from pusa_jax.convert.wan.dit import original_rules
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.models.lora import merge, merge_all
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.family import WAN21

DIT = DiTConfig(
    dim=8, ffn_dim=12, num_heads=1, num_layers=2, text_dim=4, freq_dim=4, in_dim=2, out_dim=2
)
RNG = np.random.default_rng(0)
LEAVES = {
    path: RNG.standard_normal(leaf.shape).astype(np.float32)
    for path, leaf in WAN21.networks["dit"].shapes(DIT).items()
}
A, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 8), (8, 2)))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


DIFFERENCES = {
    "blocks.1.norm3.diff": normal(8),
    "blocks.0.norm3.diff_b": normal(8),
    "blocks.1.self_attn.q.diff_b": normal(8),
    "blocks.0.self_attn.norm_k.diff": normal(8),
    "blocks.1.diff_m": normal(1, 6, 8),
    "head.diff_m": normal(1, 2, 8),
    "head.head.diff": normal(8, 8),
    "patch_embedding.diff": normal(8, 2, 1, 2, 2),
    "text_embedding.0.diff_b": normal(8),
}


def adapters(dtype=np.float32, alpha=None, prefix="diffusion_model."):
    name = f"{prefix}blocks.0.self_attn.q"
    arrays = {
        f"{name}.lora_down.weight": A.astype(dtype),
        f"{name}.lora_up.weight": B.astype(dtype),
    }
    return arrays | ({} if alpha is None else {f"{name}.alpha": np.asarray(alpha, np.float32)})


def write(path, arrays, metadata=None):
    write_safetensors(path, ArrayTensors(arrays), metadata=metadata)
    return path


def read_arrays(path):
    source = open_tensors(path)
    return {f"diffusion_model.{name}": np.array(source.read(name)) for name in source.tensors}


@pytest.mark.parametrize("prefix", ["diffusion_model.", "", "pipe.dit."])
def test_full_differences_are_added_times_the_strength(prefix):
    arrays = adapters() | {prefix + name: array for name, array in DIFFERENCES.items()}
    merged = merge(LEAVES, parse_lora(ArrayTensors(arrays), FOREIGN.lora), 0.5)
    changed = {"blocks/self_attn/q/kernel"}
    for rule in original_rules(DIT):
        _, _, last = rule.source.rpartition(".")
        ending = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}[last]
        for layer, name in enumerate(rule.names(LEAVES[rule.target].shape)):
            added = DIFFERENCES.get(f"{name.rpartition('.')[0]}.{ending}")
            if added is None:
                continue
            changed.add(rule.target)
            part = layer if rule.is_stacked else ...
            expected = LEAVES[rule.target][part] + 0.5 * rule.transform.to_leaf(added)
            np.testing.assert_allclose(merged[rule.target][part], expected, rtol=1e-6, atol=1e-6)
    assert len(changed) == 1 + len(DIFFERENCES)
    assert {path for path in merged if not np.array_equal(merged[path], LEAVES[path])} == changed


@pytest.mark.parametrize("rule", ["pusa", "lightx2v"])
def test_the_rules_of_pusa_ignore_full_differences_as_its_loaders_do(rule):
    plain, more = (
        parse_lora(ArrayTensors(adapters() | extra), FOREIGN.lora) for extra in ({}, DIFFERENCES)
    )
    for path, leaf in merge(LEAVES, plain, 1.0, rule).items():
        assert np.array_equal(merge(LEAVES, more, 1.0, rule)[path], leaf)


def test_a_distillation_with_full_differences_is_merged_with_them(tmp_path):
    path = write(tmp_path / "lightx2v.safetensors", adapters(alpha=4) | DIFFERENCES)
    (found,) = read_adapters(WAN21, DIT, lightx2v=[path])["dit"]
    merged = merge_all(LEAVES, [found])
    kernel = LEAVES["blocks/self_attn/q/kernel"][0] + 4 / 2 * (B @ A).T
    np.testing.assert_allclose(merged["blocks/self_attn/q/kernel"][0], kernel, rtol=1e-5, atol=1e-5)
    bias = LEAVES["blocks/norm3/bias"][0] + DIFFERENCES["blocks.0.norm3.diff_b"]
    np.testing.assert_allclose(merged["blocks/norm3/bias"][0], bias, rtol=1e-6, atol=1e-6)
    assert "9 full differences, which are added" in summary(path)


@pytest.mark.parametrize("is_distilled", [True, False])
def test_full_differences_are_left_out_if_asked_as_pusas_loaders_do(tmp_path, is_distilled):
    path = write(tmp_path / "lightx2v.safetensors", adapters(alpha=4) | DIFFERENCES)
    plain = write(tmp_path / "plain.safetensors", adapters(alpha=4))

    def read(file):
        loras = {"lightx2v": [file]} if is_distilled else {"lora": [(file, 1.0)]}
        return read_adapters(WAN21, DIT, **loras, add_differences=False)

    ((found,), (expected,)) = (read(file)["dit"] for file in (path, plain))
    assert found.rule == expected.rule == ("lightx2v" if is_distilled else "file_alpha")
    for leaf, array in merge_all(LEAVES, [expected]).items():
        assert np.array_equal(merge_all(LEAVES, [found])[leaf], array)
    (line,) = remarks(read(path))
    assert line.endswith(
        "lightx2v.safetensors: 9 full differences (diff, diff_b, diff_m) are left out, as asked."
    )
    assert remarks(read(plain)) == () and len(found.lora.ignored) == len(DIFFERENCES)


def test_a_difference_of_another_size_is_refused(tmp_path):
    path = write(tmp_path / "x.safetensors", adapters() | {"blocks.0.norm3.diff": normal(9)})
    message = r"blocks/norm3/scale of layer 0 is \[9\] in the LoRA and \[8\] in the model"
    with pytest.raises(ValueError, match=message):
        read_adapters(WAN21, DIT, [(path, 1.0)])


@pytest.mark.parametrize(
    "ending", ["lora_B.bias", "lora_B.default.bias", "lora_up.bias", "lora.up.bias"]
)
@pytest.mark.parametrize("alpha", [None, 6])
def test_a_bias_of_the_up_factor_is_added_as_strong_as_the_factors(ending, alpha):
    more = {f"diffusion_model.blocks.0.self_attn.q.{ending}": normal(8)}
    lora = parse_lora(ArrayTensors(adapters(alpha=alpha) | more), FOREIGN.lora)
    plain = merge(LEAVES, parse_lora(ArrayTensors(adapters(alpha=alpha)), FOREIGN.lora), 0.5)
    added = 0.5 * (alpha or 2) / 2 * next(iter(more.values()))
    for path, leaf in merge(LEAVES, lora, 0.5).items():
        expected = np.array(plain[path])
        if path == "blocks/self_attn/q/bias":
            expected[0] += added
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"diffusion_model.blocks.1.self_attn.q.lora_B.bias": normal(8)}, "has only bias"),
        (
            {
                "diffusion_model.blocks.0.self_attn.q.lora_B.bias": normal(8),
                "diffusion_model.blocks.0.self_attn.q.diff_b": normal(8),
            },
            "are the same",
        ),
        (
            {"base_model.model.blocks.0.self_attn.q.bias": normal(8)},
            r"'base_model.*q\.bias' is a whole tensor, as .*modules_to_save.*extract-lora",
        ),
        (
            {"base_model.model.head.head.modules_to_save.default.weight": normal(8, 8)},
            r"is a whole tensor, as models hold",
        ),
        ({"strange.weight": normal(8)}, "1 of 3 entries belong to no layer"),
    ],
)
def test_biases_and_whole_tensors_that_belong_nowhere_are_named(more, message):
    with pytest.raises(ValueError, match=message):
        parse_lora(ArrayTensors(adapters() | more), FOREIGN.lora)


def test_a_bias_for_a_family_without_it_is_refused():
    name = "transformer.blocks.0.attn.proj_x"
    arrays = {f"{name}.lora_A.weight": normal(2, 8), f"{name}.lora_B.weight": normal(8, 2)}
    parse_lora(ArrayTensors(arrays), MOCHI.lora)
    with pytest.raises(ValueError, match=r"proj_x\.lora_B\.bias' is a bias, .* has none in the Mo"):
        parse_lora(ArrayTensors(arrays | {f"{name}.lora_B.bias": normal(8)}), MOCHI.lora)


def test_differences_of_layers_that_are_not_there_are_listed(tmp_path):
    more = {"blocks.7.norm3.diff": normal(8)}
    path = write(tmp_path / "x.safetensors", adapters() | more)
    with pytest.raises(ValueError, match="the model has no blocks/norm3/scale of layer 7"):
        read_adapters(WAN21, DIT, [(path, 1.0)])


def test_differences_are_exported_under_their_names(tmp_path):
    path = write(tmp_path / "x.safetensors", adapters() | DIFFERENCES)
    again = read_lora(export_lora(path, tmp_path / "y.safetensors"), FOREIGN.lora)
    before = read_lora(path, FOREIGN.lora)
    assert again.differences.keys() == before.differences.keys()
    for target, difference in before.differences.items():
        np.testing.assert_array_equal(again.differences[target].array, difference.array)


@pytest.mark.parametrize(
    ("stored", "alpha", "written"),
    [
        (ml_dtypes.float8_e4m3fn, 6, ml_dtypes.bfloat16),
        (ml_dtypes.float8_e5m2, None, ml_dtypes.bfloat16),
        (ml_dtypes.bfloat16, 6, ml_dtypes.bfloat16),
        (np.float16, 2, np.float16),
        (np.float16, 6, np.float32),
        (np.float32, 6, np.float32),
    ],
)
def test_nothing_is_written_in_less_than_bfloat16(tmp_path, stored, alpha, written):
    path = write(tmp_path / "x.safetensors", adapters(stored, alpha))
    source = open_tensors(export_lora(path, tmp_path / "y.safetensors"))
    assert {t.dtype for t in source.tensors.values()} == {np.dtype(written)}
    a, b = (source.read(f"blocks.0.self_attn.q.lora_{x}.weight").astype(np.float32) for x in "AB")
    exact = (
        (alpha or 2)
        / 2
        * (B.astype(stored).astype(np.float32) @ A.astype(stored).astype(np.float32))
    )
    np.testing.assert_allclose(b @ a, exact, rtol=2**-7, atol=2**-7)


def test_factors_of_several_types_are_written_in_the_one_that_holds_all(tmp_path):
    arrays = adapters(ml_dtypes.float8_e4m3fn) | {
        name.replace("blocks.0", "blocks.1"): array for name, array in adapters(np.float32).items()
    }
    path = export_lora(write(tmp_path / "x.safetensors", arrays), tmp_path / "y.safetensors")
    assert {t.dtype for t in open_tensors(path).tensors.values()} == {np.dtype(np.float32)}


def test_a_product_that_is_not_finite_is_no_export(tmp_path):
    path = write(tmp_path / "x.safetensors", adapters(ml_dtypes.bfloat16, alpha=3e38))
    read_lora(path, FOREIGN.lora)
    arrays = dict(read_arrays(path))
    arrays["diffusion_model.blocks.0.self_attn.q.lora_up.weight"] *= ml_dtypes.bfloat16(100)
    write(path, arrays)
    with pytest.raises(ValueError, match=r"x.safetensors: \d+ of 16 values of .*q.lora_B.weight"):
        export_lora(path, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight", "diff_b"])
def test_a_value_that_is_no_number_is_found_when_it_is_merged(tmp_path, bad, dtype, part):
    arrays = adapters(dtype) | {"diffusion_model.blocks.0.norm3.diff_b": normal(8).astype(dtype)}
    (name,) = (n for n in arrays if n.endswith(part))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[5] = bad
    path = write(tmp_path / "x.safetensors", arrays)
    (found,) = read_adapters(WAN21, DIT, [(path, 1.0)])["dit"]
    with pytest.raises(
        ValueError, match=rf"x.*: 1 of (16|8) values of blocks.0.*{part} are NaN or"
    ):
        merge_all(LEAVES, [found])
    with pytest.raises(ValueError, match="would be NaN"):
        export_lora(path, tmp_path / "y.safetensors")


def test_a_lora_of_an_image_to_video_model_is_named(tmp_path):
    arrays = adapters() | {
        "diffusion_model.patch_embedding.lora_down.weight": normal(2, 36, 1, 2, 2),
        "diffusion_model.patch_embedding.lora_up.weight": normal(8, 2, 1, 1, 1),
    }
    with pytest.raises(ValueError, match=r"image-to-video model.*36 channels.*text-to-video"):
        read_lora(write(tmp_path / "x.safetensors", arrays), FOREIGN.lora)


@pytest.mark.parametrize("part", ["lokr_w1", "dora_scale", "hada_w1_a", "oft_blocks"])
def test_other_adapters_are_named_with_the_way_out(tmp_path, part):
    arrays = adapters() | {f"diffusion_model.blocks.0.ffn.0.{part}": normal(2, 2)}
    with pytest.raises(ValueError, match=r"belongs to .*extract-lora"):
        read_lora(write(tmp_path / "x.safetensors", arrays), FOREIGN.lora)


def test_a_pickled_adapter_of_peft_is_found_in_its_folder(tmp_path):
    from pusa_jax.convert.files.torch_writing import write_torch_zip

    write_torch_zip(
        tmp_path / "adapter_model.bin", ArrayTensors(adapters(prefix="base_model.model."))
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6}))
    (module,) = read_lora(tmp_path, FOREIGN.lora).modules.values()
    assert module.alpha == 6
