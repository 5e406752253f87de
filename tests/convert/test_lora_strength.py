"""How strong a LoRA is: by settings of PEFT and Diffusers, and what is said of headers."""

import json
import re

import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.folders.lora_files import export_lora
from pusa_jax.convert.folders.summary import summary
from pusa_jax.convert.lora import parse_lora, read_lora
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import Target
from pusa_jax.progress import PusaWarning

RANK = 2
Q, K = Target("blocks/self_attn/q", 0), Target("blocks/cross_attn/k", 11)
NAMES = {Q: "blocks.0.self_attn.q", K: "blocks.11.cross_attn.k"}


def tensors(prefix="base_model.model.", rank=RANK):
    arrays = {}
    for name in NAMES.values():
        arrays[f"{prefix}{name}.lora_A.weight"] = np.ones((rank, 4), np.float32)
        arrays[f"{prefix}{name}.lora_B.weight"] = np.ones((4, rank), np.float32)
    return ArrayTensors(arrays)


def alphas(config, prefix="base_model.model."):
    lora = parse_lora(tensors(prefix), WAN21.lora, config)
    return {target: lora.modules[target].alpha for target in (Q, K)}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({r"blocks\.\d+\.self_attn\.q": 6}, (6, 2)),
        ({r".*attn\.[qk]": 6}, (6, 6)),
        ({"^blocks.0.self_attn.q": 6}, (6, 2)),
        ({"^self_attn.q": 6}, (2, 2)),
        ({"q": 6, r"self_attn\.q": 3}, (6, 2)),  # the first that matches
        ({r"self_attn\.q": 3, "q": 6}, (3, 2)),
        ({"elf_attn.q": 6}, (2, 2)),  # a name begins after a point
        ({"self_attn.q.": 6, "k|x": 5}, (2, 5)),
    ],
)
@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer.", "diffusion_model.", ""])
def test_the_first_pattern_that_matches_gives_alpha_as_in_peft(patterns, expected, prefix):
    found = alphas({"r": RANK, "lora_alpha": 2, "alpha_pattern": patterns}, prefix)
    assert tuple(found.values()) == expected


def test_settings_of_peft_without_alpha_have_its_default():
    assert set(alphas({"peft_type": "LORA", "r": RANK}).values()) == {8}
    assert set(alphas({"r": RANK}).values()) == {None}


def test_a_rank_by_pattern_must_be_that_of_the_factors():
    config = {"r": 9, "rank_pattern": {"q|k": RANK}, "lora_alpha": 4}
    assert set(alphas(config).values()) == {4}
    with pytest.raises(ValueError, match=r"give blocks.11.cross_attn.k rank 9, its factors have 2"):
        alphas(config | {"rank_pattern": {"q": RANK}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"alpha_pattern": {"(": 3}}, r"pattern '\(' in alpha_pattern, which is no regular"),
        ({"alpha_pattern": [3]}, "alpha_pattern=.*must be a table"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan, which must be a number"),
        ({"alpha_pattern": {"q": True}}, "lora_alpha=True, which must be a number"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base as well"),
    ],
)
def test_settings_that_cannot_be_followed_are_one_line(config, message):
    with pytest.raises(ValueError, match=message):
        alphas({"lora_alpha": 2} | config)


def test_settings_of_another_adapter_are_named(tmp_path):
    write_safetensors(tmp_path / "adapter_model.safetensors", tensors())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(ValueError, match="its settings say 'LOHA'; only LoRA"):
        read_lora(tmp_path, WAN21.lora)


HEADERS = [
    ({"ss_network_alpha": "1", "ss_network_dim": "2"}, "ss_network_dim=2.*as the header.*is 0.5"),
    ({"lora_alpha": "6"}, "lora_alpha=6, but.*is 3"),
    ({"network_alpha": "8", "rank": "4"}, "network_alpha=8, rank=4, but.*is 2"),
    ({"lora_alpha": "much"}, "lora_alpha=much, which no loader applies"),
    ({"lora_alpha": "2"}, None),
    ({"rank": "2"}, None),
    ({"alpha": "8", "rank": "4", "strength": "alpha / rank is multiplied in"}, None),
]


@pytest.mark.parametrize(("metadata", "said"), HEADERS)
def test_an_alpha_in_the_header_alone_is_not_applied_and_said(tmp_path, metadata, said):
    """No loader applies it, so a strength of 1 is the same here as elsewhere."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors(), metadata=metadata)
    lora = read_lora(path, WAN21.lora)
    assert {module.alpha for module in lora.modules.values()} == {None}
    if said is None:
        assert not lora.remarks
    else:
        (remark,) = lora.remarks
        assert remark in summary(path)
        assert re.search(said, remark)


def test_an_alpha_among_the_tensors_needs_no_header(tmp_path):
    path, source = tmp_path / "x.safetensors", tensors()
    arrays = source.arrays | {
        f"base_model.model.{n}.alpha": np.array(1, np.float32) for n in NAMES.values()
    }
    write_safetensors(path, ArrayTensors(arrays), metadata={"ss_network_alpha": "7"})
    lora = read_lora(path, WAN21.lora)
    assert {module.alpha for module in lora.modules.values()} == {1.0} and not lora.remarks


def test_an_alpha_that_is_no_number_is_refused():
    arrays = tensors("").arrays | {"blocks.0.self_attn.q.alpha": np.array(np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"must be a number, got nan in 'blocks.0.self_attn.q.al"):
        parse_lora(ArrayTensors(arrays), WAN21.lora)


def test_exporting_says_what_the_header_says_and_keeps_it(tmp_path):
    header = {"ss_network_alpha": "1", "ss_network_dim": "2"}
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_safetensors(path, tensors(), metadata=header)
    with pytest.warns(PusaWarning, match=r"a\.safetensors: its header says ss_network_alpha=1"):
        export_lora(path, out)
    assert read_lora(out, WAN21.lora).remarks == read_lora(path, WAN21.lora).remarks
