"""fp8 and int8 files of every published layout are read as the numbers they stand for."""

import json

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip

RNG = np.random.default_rng(0)
OUT, IN = 8, 12
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
VALUES = RNG.standard_normal((OUT, IN)).astype(np.float32)
BIAS = RNG.standard_normal(OUT).astype(ml_dtypes.bfloat16)


def q(dtype=E4M3):
    return (100 * VALUES).clip(-127, 127).astype(dtype)


def uniform(*shape):
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


ONE, ROWS, BLOCKS = uniform(), uniform(OUT, 1), uniform(OUT // 4, IN // 4)
COLUMNS, TENSOR = uniform(OUT, IN // 4, 1), uniform(1)


def note(text):
    return np.frombuffer(json.dumps(text).encode(), np.uint8)


# layout -> (entries beside the bias, header, numbers, scale of each value)
LAYOUTS = {
    "comfy, old": (
        {"a.weight": q(), "a.scale_weight": ONE, "scaled_fp8": np.zeros(2, E4M3)}, {}, ONE,
    ),
    "comfy, old, with scales of inputs": (
        {"a.weight": q(), "a.scale_weight": ONE, "a.scale_input": ONE,
         "scaled_fp8": np.zeros(0, E4M3)}, {}, ONE,
    ),
    "comfy, old, e5m2": (
        {"a.weight": q(E5M2), "a.scale_weight": ONE, "scaled_fp8": np.zeros(2, E5M2)}, {}, ONE,
    ),
    "kijai": ({"a.weight": q(), "a.scale_weight": ONE}, {}, ONE),
    "musubi, one": ({"a.weight": q(), "a.scale_weight": TENSOR}, {}, TENSOR),
    "musubi, rows": ({"a.weight": q(), "a.scale_weight": ROWS}, {}, ROWS),
    "musubi, blocks": (
        {"a.weight": q(), "a.scale_weight": COLUMNS, "a.scale_weight_tensor": TENSOR}, {},
        np.repeat(COLUMNS[:, :, 0], 4, 1) * TENSOR,
    ),
    "comfy, header": (
        {"a.weight": q(), "a.weight_scale": ONE, "a.input_scale": ONE},
        {"_quantization_metadata": json.dumps({"layers": {"a": {"format": "float8_e4m3fn"}}})}, ONE,
    ),
    "comfy, header with a prefix": (
        {"a.weight": q(), "a.weight_scale": ONE},
        {"_quantization_metadata": json.dumps(
            {"layers": {"model.diffusion_model.a": {"format": "float8_e4m3fn"}}})}, ONE,
    ),
    "comfy, notes": (
        {"a.weight": q(), "a.weight_scale": ONE,
         "a.comfy_quant": note({"format": "float8_e4m3fn"})}, {}, ONE,
    ),
    "comfy, a container of bytes": (
        {"a.weight": q().view(np.uint8), "a.weight_scale": ONE,
         "a.comfy_quant": note({"format": "float8_e4m3fn"})}, {}, ONE,
    ),
    "comfy, int8 in blocks": (
        {"a.weight": q(np.int8), "a.weight_scale": BLOCKS,
         "a.comfy_quant": note({"format": "int8_blockwise"})}, {},
        np.repeat(np.repeat(BLOCKS, 4, 0), 4, 1),
    ),
    "lightx2v, fp8": ({"a.weight": q(), "a.weight_scale": ROWS}, {}, ROWS),
    "lightx2v, int8": ({"a.weight": q(np.int8), "a.weight_scale": ROWS}, {}, ROWS),
    "one axis of rows": ({"a.weight": q(), "a.weight_scale": ROWS[:, 0]}, {}, ROWS),
    "scales in bfloat16": (
        {"a.weight": q(), "a.weight_scale": ROWS.astype(ml_dtypes.bfloat16)}, {},
        ROWS.astype(ml_dtypes.bfloat16).astype(np.float32),
    ),
    "modelopt": ({"a.weight": q(), "a.weight_scale": ONE, "a.input_scale": ONE}, {}, ONE),
    "deepseek": (
        {"a.weight": q(), "a.weight_scale_inv": BLOCKS}, {},
        np.repeat(np.repeat(BLOCKS, 4, 0), 4, 1),
    ),
    "quanto": (
        {"a.weight._data": q(np.int8), "a.weight._scale": ROWS, "a.input_scale": ONE,
         "a.output_scale": ONE}, {}, ROWS,
    ),
}  # fmt: skip


def numbers(entries):
    stored = entries.get("a.weight", entries.get("a.weight._data"))
    return (stored.view(E4M3) if stored.dtype == np.uint8 else stored).astype(np.float32)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_multiplied_out_exactly(tmp_path, layout, prefix):
    entries, header, scale = LAYOUTS[layout]
    entries = {"a.bias": BIAS} | entries
    stored = {prefix + name: array for name, array in entries.items()}
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(stored), metadata=header)
    source = open_tensors(tmp_path / "x.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in source.tensors.items()} == {
        "a.weight": ((OUT, IN), np.float32), "a.bias": ((OUT,), BIAS.dtype),
    }  # fmt: skip
    expected = numbers(entries) * scale
    assert source.read("a.weight").tobytes() == expected.tobytes()
    part = (slice(1, 7, 2), slice(3, 9))
    assert source.read("a.weight", part).tobytes() == expected[part].tobytes()
    assert source.read("a.bias").tobytes() == BIAS.tobytes()
    assert source.file_of("a.weight").name == "x.safetensors"


def test_fp8_without_scales_anywhere_is_read_as_it_is(tmp_path):
    entries = {"a.weight": q(), "a.bias": BIAS}
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(entries))
    assert open_tensors(tmp_path / "x.safetensors").read("a.weight").tobytes() == q().tobytes()


REFUSED = {
    "a scale is missing": (
        {"b.weight": q(), "b.scale_weight": ONE, "a.weight": q()},
        "'a.weight' is float8.*no scale"),
    "all scales are missing": (
        {"a.weight": q(), "scaled_fp8": np.zeros(2, E4M3)}, "'a.weight' .*has no scale"),
    "whole numbers without a scale": (
        {"a.weight": q().view(np.int8)}, "'a.weight' is int8 and has no scale"),
    "a note without a scale": (
        {"a.weight": q(), "a.comfy_quant": note({"format": "float8_e4m3fn"})}, "has no scale"),
    "a scale without a weight": ({"a.scale_weight": ONE}, "belongs to no weight"),
    "two scales": (
        {"a.weight": q(), "a.scale_weight": ONE, "a.weight_scale": ONE}, "two scales"),
    "rows that do not fit": (
        {"a.weight": q(), "a.weight_scale": uniform(5, 1)}, r"\[5, 1\] does not fit .*\[8, 12\]"),
    "a scale of whole numbers": (
        {"a.weight": q(), "a.weight_scale": np.ones(1, np.int32)}, "is int32, must be a floating"),
    "bytes of no format": (
        {"a.weight": q().view(np.uint8), "a.weight_scale": ONE}, "nothing says of which format"),
    "nvfp4": (
        {"a.weight": q().view(np.uint8), "a.weight_scale": ONE, "a.weight_scale_2": ONE}, "NVFP4"),
    "another format": (
        {"a.weight": q(), "a.weight_scale": ONE, "a.comfy_quant": note({"format": "mxfp8"})},
        "is stored as 'mxfp8'"),
    "a damaged note": ({"a.weight": q(), "a.comfy_quant": note([])}, "is damaged"),
    "bitsandbytes": (
        {"a.weight": q().view(np.uint8), "a.weight.absmax": ONE,
         "a.weight.quant_state.bitsandbytes__nf4": note({})}, "bitsandbytes"),
    "gptq": ({"a.qweight": q(np.int8), "a.qzeros": q(np.int8)}, "GPTQ"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_multiplied_out_is_named_in_one_line(tmp_path, case):
    entries, message = REFUSED[case]
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(entries))
    with pytest.raises(ValueError, match=r"x\.safetensors: .*" + message) as error:
        open_tensors(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_files_of_pytorch_have_scales_as_well(tmp_path):
    entries = {"a.weight": q(np.int8), "a.weight_scale": ROWS}
    write_torch_zip(tmp_path / "x.pth", ArrayTensors(entries))
    source = open_tensors(tmp_path / "x.pth")
    assert source.read("a.weight").tobytes() == (q(np.int8).astype(np.float32) * ROWS).tobytes()


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_saved_by_pytorch_is_read(tmp_path, kind):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    weight = torch.from_numpy(VALUES).to(getattr(torch, kind))
    torch.save({"a.weight": weight, "a.weight_scale": torch.from_numpy(ROWS)}, tmp_path / "x.pth")
    ours = open_tensors(tmp_path / "x.pth").read("a.weight")
    assert ours.tobytes() == (weight.float() * torch.from_numpy(ROWS)).numpy().tobytes()
