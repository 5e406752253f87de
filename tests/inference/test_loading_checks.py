"""What is found out before weights are read: whose tiles, and where the text encoder will be."""

import math

import jax
import pytest

from pusa_jax.demo import shipped
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.inference import loading
from pusa_jax.inference.loading import check_tiles, open_model, place_for_text
from pusa_jax.inference.mesh_choice import ROOM, weight_bytes
from pusa_jax.models.wan.family import WAN22
from pusa_jax.testing.mochi import write_mochi


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mochi")
    write_mochi(folder, "diffusers")
    return open_model(folder)


def test_the_originals_tiles_are_refused_for_diffusers_autoencoder_of_mochi_alone(diffusers):
    with pytest.raises(ValueError, match="is Diffusers', which decodes the first frames"):
        check_tiles(diffusers, "original")
    check_tiles(diffusers, True)
    check_tiles(diffusers, False)
    check_tiles(open_model(shipped.FOLDER), "original")


@pytest.mark.parametrize(("resident", "denoisers"), [("all", 2), ("one", 1)])
def test_the_text_encoder_has_room_beside_the_experts_that_stay(monkeypatch, resident, denoisers):
    model, mesh = open_model(shipped.FOLDER), make_mesh({}, jax.devices()[:1])
    monkeypatch.setattr(model.folder, "family", WAN22)
    text = model.folder.config("text_encoder")
    needed = weight_bytes(mesh, WAN22, text, "float32", "text_encoder")
    needed += denoisers * weight_bytes(mesh, WAN22, model.configs.dit, "float32")
    enough = math.ceil(needed / (1 - ROOM))
    monkeypatch.setattr(loading, "free_on_host", lambda: 2**40)
    for limit, place in ((enough, "devices"), (enough - 2, "host"), (None, "host")):
        monkeypatch.setattr(loading, "device_limit", lambda mesh, limit=limit: limit)
        assert place_for_text(model, mesh, "float32", resident) == place
