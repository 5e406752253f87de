"""Settings of a run: networks by preset or by plain values, and records that come back."""

import dataclasses
import json

import pytest
from small import DIT, VAE, settings

from pusa_jax.files.records import build, rebuild
from pusa_jax.models.families import FAMILIES
from pusa_jax.training.config import ModelConfig, RunConfig


@pytest.mark.parametrize(
    "run",
    [
        settings(),
        settings(adapter=None, model=ModelConfig(preset="wan2.1-t2v-14b")),
        settings(model=ModelConfig(dit=DIT, weights="somewhere")),
    ],
    ids=["own", "preset", "without a vae"],
)
def test_settings_come_back_from_the_record_of_a_checkpoint(run):
    assert rebuild(RunConfig, json.loads(json.dumps(run.record()))) == run


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_makes_its_networks_of_plain_values(name):
    networks = FAMILIES[name].networks
    values = {"num_heads": 2, "num_layers": 2}
    values |= {"mochi-1": {}, "latte": {"dim": 16}}.get(name, {"dim": 16, "ffn_dim": 24})
    model = build(ModelConfig, {"family": name, "dit": values, "dtype": "float32"}, "model")
    found = model.networks()
    assert found.family is FAMILIES[name]
    assert found.dit == dataclasses.replace(
        networks["dit"].config(**values), compute_dtype="float32", remat=model.remat
    )
    assert found.vae == networks["vae"].config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "none", "dit": {}}, "unknown model family 'none'; known: latte, mochi-1"),
        ({"dit": {"dim": 16}}, "model.dit.ffn_dim is missing"),
        (
            {"preset": "wan2.1-t2v-14b", "vae": {"dims": 8}},
            "no model.vae.dims; nearest are model.v",
        ),
        ({}, "model needs either a preset or a dit of its own"),
        (
            {"preset": "wan2.1-t2v-14b", "expert": "dit_low"},
            "model.expert must be one of dit in wan2.1, got dit_low",
        ),
        (
            {"preset": "wan2.2-t2v-a14b", "expert": "vae"},
            "model.expert must be one of dit, dit_low in wan2.2, got vae",
        ),
        ({"preset": "wan2.1-t2v-14b", "dit": dataclasses.asdict(DIT)}, "model needs either a pre"),
    ],
)
def test_what_describes_no_network_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        build(ModelConfig, values, "model")


def test_networks_compute_as_the_run_says():
    model = ModelConfig(dit=DIT, vae=VAE, dtype="bfloat16", numerics="wan", remat="dots")
    found = model.networks()
    assert (found.dit.param_dtype, found.dit.compute_dtype) == ("bfloat16", "bfloat16")
    assert (found.dit.numerics, found.dit.remat, found.vae) == ("wan", "dots", VAE)
