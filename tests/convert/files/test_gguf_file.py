"""GGUF files, by the reader on PyPI, where it is installed."""

import sys

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.open import open_tensors

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 64)).astype(np.float32)


def test_without_the_reader_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"pip install 'pusa_jax\[gguf\]'"):
        open_tensors(tmp_path / "x.gguf")


def test_a_damaged_file_is_named(tmp_path):
    pytest.importorskip("gguf", reason="needs the extra [gguf]")
    for content in (b"GGUF", b"", b"something else, which is long enough for a header"):
        (tmp_path / "x.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.gguf is damaged or no GGUF file"):
            open_tensors(tmp_path / "x.gguf")


def test_names_of_llama_cpp_are_those_of_transformers(tmp_path):
    gguf = pytest.importorskip("gguf", reason="needs the extra [gguf]")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "t5encoder")
    for name in ("token_embd", "enc.blk.1.attn_rel_b", "enc.blk.1.attn_o", "enc.blk.1.attn_norm",
                 "enc.blk.1.ffn_gate", "enc.blk.1.ffn_norm", "enc.output_norm"):  # fmt: skip
        writer.add_tensor(f"{name}.weight", WEIGHT)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [*open_tensors(tmp_path / "x.gguf").tensors] == [
        "shared.weight",
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.1.layer.0.SelfAttention.o.weight",
        "encoder.block.1.layer.0.layer_norm.weight",
        "encoder.block.1.layer.1.DenseReluDense.wi_0.weight",
        "encoder.block.1.layer.1.layer_norm.weight",
        "encoder.final_layer_norm.weight",
    ]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_blocks_are_multiplied_out_and_shapes_restored(tmp_path, prefix):
    gguf = pytest.importorskip("gguf", reason="needs the extra [gguf]")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    kinds = gguf.GGMLQuantizationType
    quantised = {}
    for kind in (kinds.Q8_0, kinds.Q5_1, kinds.Q4_0):
        quantised[kind] = gguf.quants.quantize(WEIGHT, kind)
        writer.add_tensor(f"{prefix}{kind.name}.weight", quantised[kind], raw_dtype=kind)
    brain = WEIGHT.astype(ml_dtypes.bfloat16)
    writer.add_tensor(f"{prefix}brain", brain.view(np.uint8), raw_dtype=kinds.BF16)
    writer.add_tensor(f"{prefix}half", WEIGHT.astype(np.float16))
    patch = RNG.standard_normal((4, 2, 1, 2, 2)).astype(np.float32)
    writer.add_tensor(f"{prefix}patch", patch.reshape(4, 8))
    writer.add_array(f"comfy.gguf.orig_shape.{prefix}patch", list(patch.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = open_tensors(path)
    for kind, blocks in quantised.items():
        expected = gguf.quants.dequantize(blocks, kind)
        assert source.read(f"{kind.name}.weight").tobytes() == expected.tobytes()
        part = (slice(1, 3), slice(5, 40))
        assert source.read(f"{kind.name}.weight", part).tobytes() == expected[part].tobytes()
    assert source.read("brain").tobytes() == brain.tobytes()
    assert source.read("half").tobytes() == WEIGHT.astype(np.float16).tobytes()
    assert source.tensors["patch"].shape == patch.shape
    assert source.read("patch").tobytes() == patch.tobytes()
