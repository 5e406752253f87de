"""A Hub that has the tiny model, and an empty cache."""

import pytest
from huggingface_hub import constants
from served_hub import FIRST, Hub, published, serving

from pusa_jax.hub import opening


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "*")
    opening._found.cache_clear()
    with serving(Hub({FIRST: published()})) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub
    opening._found.cache_clear()
