import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.lora import lora_tensors, parse_lora, read_lora, write_lora
from pusa_jax.convert.wan.dit import LINEARS
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import Target

RNG = np.random.default_rng(0)
RANK = 3
PATHS = {original: path for original, _, path in LINEARS}
DIFFUSERS = {original: theirs for original, theirs, _ in LINEARS}
MODULES = [f"blocks.{i}.{m}" for i in (0, 1, 11) for m in ("self_attn.q", "cross_attn.o", "ffn.0")]
FACTORS = {
    module: (RNG.standard_normal((RANK, 6)), RNG.standard_normal((5, RANK))) for module in MODULES
}


def named(name, down="lora_A.weight", up="lora_B.weight", alpha=None):
    """The test's adapters, with names made by `name(module)`, as tensors of a file."""
    arrays = {}
    for module, (a, b) in FACTORS.items():
        arrays[f"{name(module)}.{down}"] = a.astype(np.float32)
        arrays[f"{name(module)}.{up}"] = b.astype(np.float32)
        if alpha is not None:
            arrays[f"{name(module)}.alpha"] = np.array(alpha, np.float32)
    return arrays


def diffusers(module):
    parts = module.split(".")
    template = DIFFUSERS[".".join(["blocks", "{i}", *parts[2:]])]
    return template.replace("{i}", parts[1])


def flat(module):
    return module.replace(".", "_")


KOHYA = ("lora_down.weight", "lora_up.weight", 2.0)
DIALECTS = {
    "pusa": named(str, "lora_A.default.weight", "lora_B.default.weight"),
    "diffsynth": named(lambda m: f"pipe.dit.{m}", "lora_A.default.weight", "lora_B.default.weight"),
    "peft": named(lambda m: f"base_model.model.{m}"),
    "comfy": named(lambda m: f"diffusion_model.{m}"),
    "comfy with alpha": named(lambda m: f"diffusion_model.{m}", alpha=2.0),
    "native up/down": named(str, "lora_down.weight", "lora_up.weight"),
    "lightx2v": named(lambda m: f"diffusion_model.{m}", *KOHYA),
    "kohya": named(lambda m: f"lora_unet_{flat(m)}", *KOHYA),
    "fun": named(lambda m: f"lora_unet__{flat(m)}", *KOHYA),
    "lycoris": named(lambda m: f"lycoris_{flat(diffusers(m))}", *KOHYA),
    "diffusers": named(lambda m: f"transformer.{diffusers(m)}"),
    "bare": named(str, "lora_A", "lora_B"),
    "two prefixes": named(lambda m: f"model.diffusion_model.{m}"),
    "model": named(lambda m: f"dit.{m}"),
    "flat transformer": named(lambda m: f"lora_transformer_{flat(diffusers(m))}", *KOHYA),
    "linear layer": named(str, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "dotted": named(str, "lora.down.weight", "lora.up.weight"),
    "underscore": {
        name.replace(".lora_", "_lora."): array
        for name, array in named(str, "lora_down.weight", "lora_up.weight").items()
    },
}


def target(module):
    _, layer, *rest = module.split(".")
    return Target(PATHS[".".join(["blocks", "{i}", *rest])], int(layer))


def assert_holds_the_factors(lora):
    assert lora.modules.keys() == {target(module) for module in MODULES}
    for module, (a, b) in FACTORS.items():
        ours = lora.modules[target(module)]
        np.testing.assert_array_equal(ours.down, a.astype(np.float32))
        np.testing.assert_array_equal(ours.up, b.astype(np.float32))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_adapters(dialect):
    lora = parse_lora(ArrayTensors(DIALECTS[dialect]), WAN21.lora)
    assert_holds_the_factors(lora)
    has_alpha = any(name.endswith(".alpha") for name in DIALECTS[dialect])
    assert {m.alpha for m in lora.modules.values()} == {2.0 if has_alpha else None}
    assert not lora.ignored


def test_a_pt_file_is_read_like_the_safetensors_one(tmp_path):
    write_torch_zip(tmp_path / "x.pt", ArrayTensors(DIALECTS["pusa"]))
    assert_holds_the_factors(read_lora(tmp_path / "x.pt", WAN21.lora))
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(DIALECTS["pusa"]))
    assert_holds_the_factors(read_lora(tmp_path / "x.safetensors", WAN21.lora))


def test_image_layers_are_listed_as_ignored_and_said():
    extra = {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": "image-to-video",
        "diffusion_model.img_emb.proj.1.lora_B.weight": "image-to-video",
        "lora_unet_blocks_0_cross_attn_v_img.alpha": "image-to-video",
        "diffusion_model.blocks.0.norm9.diff": "that the model does not have",
    }
    arrays = DIALECTS["comfy"] | dict.fromkeys(extra, np.zeros(3, np.float32))
    lora = parse_lora(ArrayTensors(arrays), WAN21.lora)
    assert_holds_the_factors(lora)
    assert lora.ignored.keys() == extra.keys()
    assert all(extra[name] in reason for name, reason in lora.ignored.items())
    (remark,) = lora.remarks
    assert remark.startswith("4 of its entries are not used: a layer of image-to-video models; a ")


def test_the_alpha_of_diffusers_metadata_is_used(tmp_path):
    settings = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 6,
        "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 12, "blocks.1.attn1.to_q": 3.0},
    }
    write_safetensors(
        tmp_path / "pytorch_lora_weights.safetensors",
        ArrayTensors(DIALECTS["diffusers"]),
        metadata={"lora_adapter_metadata": json.dumps(settings)},
    )
    lora = read_lora(tmp_path, WAN21.lora)
    alphas = {t.layer: m.alpha for t, m in lora.modules.items() if t.path == "blocks/self_attn/q"}
    assert alphas == {0: 12, 1: 3, 11: 6}


@pytest.mark.parametrize(("stabilised", "alpha"), [(False, 6.0), (True, 6 * RANK**0.5)])
def test_the_alpha_of_peft_settings_is_used(tmp_path, stabilised, alpha):
    write_safetensors(tmp_path / "adapter_model.safetensors", ArrayTensors(DIALECTS["peft"]))
    settings = {"r": RANK, "lora_alpha": 6, "use_rslora": stabilised}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert {m.alpha for m in read_lora(tmp_path, WAN21.lora).modules.values()} == {alpha}


def test_a_folder_without_a_lora_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected adapter_model\.safetensors or"):
        read_lora(tmp_path, WAN21.lora)


def one(**changes):
    arrays = {
        "blocks.0.ffn.0.lora_A.weight": np.zeros((2, 6), np.float32),
        "blocks.0.ffn.0.lora_B.weight": np.zeros((5, 2), np.float32),
    } | {name: np.zeros(shape, np.float32) for name, shape in changes.items()}
    return ArrayTensors(arrays)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ArrayTensors({}), "holds no LoRA"),
        (ArrayTensors({"blocks.0.ffn.0.weight": np.zeros(1)}), "is a whole tensor, as models hold"),
        (ArrayTensors({"blocks.0.ffn.0.odd": np.zeros(1)}), "1 of 1 entries belong to no layer"),
        (one(**{"text.lora_A.weight": (2, 6)}), "1 of 3 entries belong to no layer.*'text.lora_A"),
        (one(**{"blocks.0.ffn.2.lora_A.weight": (2, 6)}), "needs down and up"),
        (one(**{"blocks.0.ffn.2.alpha": ()}), "needs down and up"),
        (
            one(**{"blocks.0.ffn.0.lora_B.weight": (5, 3)}),
            r"must be \[rank, in\] and \[out, rank\]",
        ),
        (one(**{"blocks.0.ffn.0.lora_B.weight": (5,)}), r"must be \[rank, in\]"),
        (one(**{"blocks.0.ffn.0.lora_A.weight": ()}), r"must be \[rank, in\]"),
        (
            one(**{"blocks.0.ffn.0.lora_A.weight": (0, 6), "blocks.0.ffn.0.lora_B.weight": (5, 0)}),
            r"has factors \[0, 6\] and \[5, 0\], which must be",
        ),
        (
            one(**{"patch_embedding.lora_A": (2, 3, 0, 2, 2), "patch_embedding.lora_B": (5, 2)}),
            r"must be \[rank, in\]",
        ),
        (one(**{"blocks.0.ffn.0.alpha": (2,)}), "must be one number"),
        (one(**{"transformer.blocks.0.ffn.0.lora_down.weight": (2, 6)}), "are the same part"),
        (one(**{"blocks.0.ffn.0.dora_scale": (5,)}), "belongs to DoRA"),
        (one(**{"blocks.0.ffn.0.lora_magnitude_vector": (5,)}), "belongs to DoRA"),
        (one(**{"blocks.0.ffn.2.hada_w1_a": (5, 2)}), "belongs to LoHa"),
        (one(**{"blocks.0.ffn.2.lokr_w1": (5, 2)}), "belongs to LoKr"),
        (one(**{"blocks.0.ffn.0.lora_mid.weight": (2, 2)}), "belongs to LoCon"),
        (one(**{"blocks.0.ffn.0.set_weight": (5, 6)}), "belongs to a replaced weight"),
        (
            one(
                **{
                    "patch_embedding.lora_A": (2, 3, 1, 2, 2),
                    "patch_embedding.lora_B": (5, 2, 1, 2, 2),
                }
            ),
            r"factors \[2, 3, 1, 2, 2\] and \[5, 2, 1, 2, 2\], which must be",
        ),
    ],
)
def test_what_is_no_lora_gives_one_line(source, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_lora(source, WAN21.lora)
    assert "\n" not in str(error.value)


WORDS = [
    "blocks", "0", "1", "ffn", "self_attn", "q", "lora_A", "lora_down", "weight", "alpha", "diff",
    "diffusion_model", "lora_unet", "text\nmodel", "transformer", "\ud800", "", "patch_embedding",
]  # fmt: skip


@given(
    st.dictionaries(
        st.lists(st.sampled_from(WORDS), max_size=7).map(".".join),
        st.lists(st.integers(0, 3), max_size=5).map(lambda shape: np.zeros(shape, np.float32)),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_names_and_shapes_give_adapters_or_one_line(arrays):
    try:
        assert parse_lora(ArrayTensors(arrays), WAN21.lora).modules
    except ValueError as error:
        assert "\n" not in str(error)


def test_errors_name_the_file(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors({"w": np.zeros(1, np.float32)}))
    with pytest.raises(ValueError, match=r"x\.safetensors: 1 of 1 entries"):
        read_lora(tmp_path / "x.safetensors", WAN21.lora)


def test_adapters_of_the_patch_convolution_are_reordered_like_its_kernel():
    down, up = RNG.standard_normal((2, 3, 1, 2, 2)), RNG.standard_normal((5, 2, 1, 1, 1))
    arrays = {
        "patch_embedding.lora_down.weight": down.astype(np.float32),
        "patch_embedding.lora_up.weight": up.astype(np.float32),
    }
    lora = parse_lora(ArrayTensors(arrays), WAN21.lora)
    module = lora.modules[Target("patch_embedding")]
    weight = np.einsum("or,rcthw->octhw", up[:, :, 0, 0, 0], down)
    kernel = weight[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, 5)
    np.testing.assert_allclose((module.up @ module.down).T, kernel, rtol=1e-5, atol=1e-6)
    written = lora_tensors(lora, WAN21.lora, "float32").arrays
    np.testing.assert_array_equal(
        written["diffusion_model.patch_embedding.lora_A.weight"],
        arrays["patch_embedding.lora_down.weight"],
    )


def test_the_written_form_is_the_common_one_with_the_scale_inside(tmp_path):
    lora = parse_lora(ArrayTensors(DIALECTS["kohya"]), WAN21.lora)
    path = tmp_path / "x.safetensors"
    write_lora(path, lora, WAN21.lora, dtype="float32", metadata={"base": "wan2.1-t2v-1.3b"})
    again = read_lora(path, WAN21.lora)
    assert set(lora_tensors(lora, WAN21.lora).arrays) == {
        f"diffusion_model.{module}.lora_{side}.weight" for module in MODULES for side in "AB"
    }
    for key, module in lora.modules.items():
        np.testing.assert_array_equal(again.modules[key].down, module.down)
        np.testing.assert_array_equal(again.modules[key].up, module.up * np.float32(2.0 / RANK))
        assert again.modules[key].alpha is None


def test_factors_are_written_in_bfloat16_by_default():
    arrays = lora_tensors(
        parse_lora(ArrayTensors(DIALECTS["comfy"]), WAN21.lora), WAN21.lora
    ).arrays
    assert {array.dtype for array in arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_factors_that_are_whole_numbers_are_refused():
    arrays = {name: array.astype(np.int32) for name, array in one().arrays.items()}
    with pytest.raises(ValueError, match="factors of int32 and int32, must be floating"):
        parse_lora(ArrayTensors(arrays), WAN21.lora)


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({}, None),
        ({"lora_alpha": 0}, 0.0),
        ({"lora_alpha": 6, "alpha_pattern": {"ffn.0": 3}}, 3.0),
        ({"lora_alpha": 6, "alpha_pattern": {"fn.0": 3, "0.ffn": 4}}, 6.0),
        ({"lora_alpha": 6, "alpha_pattern": None}, 6.0),
    ],
)
def test_settings_give_an_alpha_to_the_layers_they_name(settings, alpha):
    (module,) = parse_lora(one(), WAN21.lora, settings).modules.values()
    assert module.alpha == alpha


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True, "lora_alpha": 6}, "its settings say DoRA"),
        ({"lora_alpha": "6"}, "lora_alpha='6', which must be a number"),
    ],
)
def test_settings_of_another_kind_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_lora(one(), WAN21.lora, settings)
