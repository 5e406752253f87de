"""The text encoder is read once where devices or host have room for it, else for each prompt."""

import math

import jax
import pytest

from pusa_jax.demo import shipped
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.inference import loading
from pusa_jax.inference.mesh_choice import ROOM, weight_bytes
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.inference.text_place import PLACES
from pusa_jax.progress import no_progress


@pytest.mark.parametrize(
    ("spare", "free", "place", "loads"),
    [(0, 0, "devices", 1), (-1, 2**40, "host", 1), (-1, 0, "files", 2)],
)
def test_the_encoder_is_kept_while_there_is_room(monkeypatch, spare, free, place, loads):
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
    monkeypatch.setattr(loading, "free_on_host", lambda: free)
    parts = loading.load_parts(model, dtype="float32", mesh=mesh, on_progress=no_progress)
    encoders = parts.text_encoder(), parts.text_encoder()
    assert seen.count("text_encoder") == loads
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(encoders)}
    assert kinds == {"device"}
    pipeline = PusaPipeline(**vars(parts))
    assert pipeline.text_place == place and PLACES[place] in repr(pipeline)
    (features,) = pipeline.encode_prompts(["a red circle moves right on black"])
    assert abs(features).sum() > 0
