"""LoRA files of Mochi: Diffusers' names, and genmo's fused queries, keys and values."""

import dataclasses

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pusa_jax.cli.main import main
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import parse_lora, read_lora, write_lora
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.models.lora import LoRA, LowRank, Target, check_fit
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.testing.mochi import DIT, write_mochi

NAMES = FOREIGN["mochi-1"].lora
TINY = NAMES.of(DIT)
RNG = np.random.default_rng(0)
LAST = DIT.num_layers - 1


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def genmo_file(path, rank=4, alpha=8):
    """As genmo's trainer writes one, of two blocks."""
    tensors = {}
    for block in (0, LAST):
        for s, width in (("x", DIT.dim), ("y", DIT.context_dim)):
            name = f"blocks.{block}.attn.qkv_{s}"
            tensors |= {f"{name}.lora_A": drawn(rank, width)}
            tensors |= {f"{name}.lora_B": drawn(3 * DIT.dim, rank)}
        name = f"blocks.{block}.attn.proj_x"
        tensors |= {f"{name}.lora_A": drawn(rank, DIT.dim), f"{name}.lora_B": drawn(DIT.dim, rank)}
    kwargs = f'{{"qkv_proj_lora_rank": {rank}, "qkv_proj_lora_alpha": {alpha}}}'
    save_file(tensors, path, metadata={"kwargs": kwargs})
    return tensors


def product(module: LowRank):
    scale = 1.0 if module.alpha is None else module.alpha / module.rank
    return scale * module.up.astype(np.float32) @ module.down.astype(np.float32)


def products(lora: LoRA):
    return {target: product(module) for target, module in lora.modules.items()}


def test_genmos_fused_factor_is_split_in_three(tmp_path):
    tensors = genmo_file(tmp_path / "x.safetensors")
    lora = read_lora(tmp_path / "x.safetensors", TINY)
    check_fit(MOCHI.networks["dit"].shapes(DIT), lora)
    whole = tensors["blocks.0.attn.qkv_y.lora_B"] @ tensors["blocks.0.attn.qkv_y.lora_A"]
    parts = [product(lora.modules[Target(f"blocks/text/{layer}", 0)]) for layer in "qkv"]
    np.testing.assert_allclose(np.concatenate(parts), 2 * whole, rtol=1e-5)  # alpha 8, rank 4
    assert lora.modules[Target("last/visual/o")].alpha is None
    assert Target("last/visual/q") in lora.modules and len(lora.modules) == 14


def test_the_last_block_is_that_of_the_model():
    pair = ("lora_A", drawn(2, 48)), ("lora_B", drawn(48, 2))
    for names, last in ((TINY, LAST), (NAMES, 47)):
        for block, path in ((0, Target("blocks/visual/q", 0)), (last, Target("last/visual/q"))):
            layer = f"transformer.transformer_blocks.{block}.attn1.to_q"
            source = ArrayTensors({f"{layer}.{part}.weight": x for part, x in pair})
            assert set(parse_lora(source, names).modules) == {path}


@pytest.mark.parametrize("naming", ["comfy", "pusa_v1", "genmo"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_written_is_read_again(tmp_path, naming, is_shared):
    genmo_file(tmp_path / "x.safetensors")
    lora = read_lora(tmp_path / "x.safetensors", TINY)
    if not is_shared:  # as a run here trains: each layer its own down factor, and other ranks
        modules = {
            target: dataclasses.replace(module, down=drawn(*module.down.shape))
            for target, module in lora.modules.items()
            if target != Target("blocks/text/k", 0)
        }
        lora = LoRA(modules)
    write_lora(tmp_path / "y.safetensors", lora, TINY, dtype="float32", naming=naming)
    again = products(read_lora(tmp_path / "y.safetensors", TINY))
    missing = {Target("blocks/text/k", 0)} if naming == "genmo" and not is_shared else set()
    assert set(again) - set(lora.modules) == missing and not any(again[m].any() for m in missing)
    for target, expected in products(lora).items():
        np.testing.assert_allclose(again[target], expected, atol=1e-4, err_msg=str(target))
    with safe_open(tmp_path / "y.safetensors", "np") as file:
        name = next(iter(file.keys()))
        ranks = {file.get_slice(n).get_shape()[0] for n in file.keys() if "lora_A" in n}
    prefix = {"comfy": "transformer.transformer_blocks.", "genmo": "blocks."}
    assert name.startswith(prefix.get(naming, "transformer_blocks."))
    assert len(ranks) == 1 or naming != "genmo"


def test_genmos_naming_is_for_mochi_only(tmp_path):
    lora = LoRA({Target("blocks/self_attn/q", 0): LowRank(drawn(2, 8), drawn(8, 2))})
    with pytest.raises(ValueError, match="no layers that genmo names"):
        write_lora(tmp_path / "x.safetensors", lora, FOREIGN["wan2.1"].lora, naming="genmo")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"blocks.0.attn.qkv_x.lora_A": (2, 48), "blocks.0.attn.qkv_x.lora_B": (97, 2)}, "shared"),
        (
            {
                "blocks.0.attn.qkv_x.lora_A": (2, 48), "blocks.0.attn.qkv_x.lora_B": (144, 2),
                "transformer_blocks.0.attn1.to_k.lora_A.weight": (2, 48),
                "transformer_blocks.0.attn1.to_k.lora_B.weight": (48, 2),
            },
            "two adapters",
        ),
    ],
)  # fmt: skip
def test_factors_that_do_not_belong_together_are_refused(tensors, words):
    source = ArrayTensors({name: drawn(*shape) for name, shape in tensors.items()})
    with pytest.raises(ValueError, match=words):
        parse_lora(source, TINY)


def test_a_lora_of_wan_is_said_to_be_one(tmp_path, capsys):
    write_mochi(tmp_path / "model")
    layer = "diffusion_model.blocks.0.self_attn.q"
    wan = {f"{layer}.lora_A.weight": drawn(2, 48), f"{layer}.lora_B.weight": drawn(48, 2)}
    save_file(wan, tmp_path / "wan.safetensors")
    argv = ["t2v", "--model", str(tmp_path / "model"), "--prompt", "x", "--dry_run"]
    code = main([*argv, "--lora_path", str(tmp_path / "wan.safetensors"), "--output", "x.mp4"])
    errors = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "is a LoRA of the Wan DiT, not of the Mochi DiT" in errors[-1]


def test_a_genmo_lora_is_merged(tmp_path):
    write_mochi(tmp_path / "model")
    genmo_file(tmp_path / "x.safetensors")
    from pusa_jax.inference.loading import open_model

    model = open_model(ModelFolder(tmp_path / "model"), [(str(tmp_path / "x.safetensors"), 1.0)])
    assert model.family is MOCHI
