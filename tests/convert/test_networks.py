"""Every family of the house has its foreign half, and folders say which they belong to."""

import itertools
import json

import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.folders.lora_files import export_lora, recognise_lora
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import open_lora
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.models.families import FAMILIES


def test_every_family_is_published_somewhere():
    assert FOREIGN.keys() == FAMILIES.keys()
    for name, foreign in FOREIGN.items():
        assert foreign.networks.keys() == FAMILIES[name].networks.keys()


@pytest.mark.parametrize("family", FOREIGN)
def test_every_layout_says_where_everything_lies(family):
    foreign = FOREIGN[family]
    for layout in foreign.tokenizer:
        assert foreign.shard_bytes[layout] > 0 and layout in foreign.extras
        for network in foreign.networks.values():
            assert layout in network.files and layout in network.rules
    experts = FAMILIES[family].experts
    of = {name: {*network.classes} for name, network in foreign.networks.items()}
    for a, b in itertools.combinations(of, 2):
        assert (of[a] & of[b] == set()) != ({a, b} <= {*experts})


@pytest.mark.parametrize("family", ["wan9", None])
def test_a_converted_folder_of_an_unknown_family_is_refused_in_one_line(tmp_path, family):
    manifest = {"format": 2, "family": family, "components": {}}
    (tmp_path / "pusa_jax.json").write_text(json.dumps(manifest))
    known = (
        rf"pusa_jax\.json: unknown model family '{family}'; known: latte, mochi-1, wan2\.1, "
        r"wan2\.2, wan2\.2-ti2v\."
    )
    with pytest.raises(ValueError, match=known) as error:
        ModelFolder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_lora_tells_which_family_it_belongs_to(tmp_path):
    names = [f"blocks.0.self_attn.q.lora_{side}.weight" for side in "AB"]
    arrays = dict(zip(names, (np.ones((1, 3)), np.ones((2, 1))), strict=True))
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(arrays))
    lora, family = recognise_lora(tmp_path / "x.safetensors")
    assert len(lora.modules) == 1 and family is FOREIGN["wan2.1"]


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("any", {}, {"base": "Wan2.1-T2V"}),
        ("high_noise_pusa", {}, {"base": "Wan2.2-T2V-A14B"}),
        ("Wan22_low_noise_model", {}, {"base": "Wan2.2-T2V-A14B"}),
        (
            "mine",
            {"base": "Wan-AI/Wan2.2-T2V-A14B", "expert": "low-noise expert"},
            {"base": "Wan-AI/Wan2.2-T2V-A14B", "expert": "low-noise expert"},
        ),
    ],
)
def test_an_exported_lora_names_the_base_that_its_source_says(tmp_path, name, said, expected):
    names = [f"blocks.0.self_attn.q.lora_{side}.weight" for side in "AB"]
    arrays = dict(zip(names, (np.ones((1, 3)), np.ones((2, 1))), strict=True))
    source = tmp_path / f"{name}.safetensors"
    write_safetensors(source, ArrayTensors(arrays), metadata=said)
    out = export_lora(source, tmp_path / "out.safetensors")
    found = open_lora(out)[0].metadata
    assert {key: found.get(key) for key in ("base", "expert") if key in found} == expected
