"""The text encoder is read once where it has room beside the denoisers, else for each prompt."""

import math

import jax
import pytest

from pusa_jax.demo import shipped
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.inference import loading
from pusa_jax.inference.mesh_choice import ROOM, weight_bytes
from pusa_jax.progress import no_progress


@pytest.mark.parametrize(("spare", "loads"), [(0, 1), (-1, 2)])
def test_the_encoder_is_kept_while_there_is_room(monkeypatch, spare, loads):
    model, mesh = loading.open_model(shipped.FOLDER), make_mesh({}, jax.devices()[:1])
    text = model.folder.config("text_encoder")
    needed = weight_bytes(mesh, model.family, text, "float32", "text_encoder")
    needed += weight_bytes(mesh, model.family, model.configs.dit, "float32")
    limit = math.ceil(needed / (1 - ROOM)) + 2 * spare
    seen, load = [], loading.load_module

    def counted(model, name, *rest):
        seen.append(name)
        return load(model, name, *rest)

    monkeypatch.setattr(loading, "load_module", counted)
    monkeypatch.setattr(loading, "device_limit", lambda mesh: limit)
    parts = loading.load_parts(model, dtype="float32", mesh=mesh, on_progress=no_progress)
    parts.text_encoder(), parts.text_encoder()
    assert seen.count("text_encoder") == loads
