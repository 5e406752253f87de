"""A name on the Hub is taken wherever a model or LoRA folder is, and costs what is needed once."""

import warnings
from pathlib import Path

import pytest
from huggingface_hub import constants
from served_hub import EXTRAS, FIRST, SECOND, published

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.hub import opening
from pusa_jax.inference import packaged
from pusa_jax.progress import PusaWarning

NAME = "tiny-world/tiny"


def found(name=NAME, kind="model"):
    """Where it lies, and the lines that were told."""
    opening._found.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", PusaWarning)
        path = packaged.found(name, kind)
    return Path(path), [str(each.message) for each in told]


def test_a_name_becomes_a_folder_that_opens_with_nothing_in_it_that_is_not_read(hub, tmp_path):
    path, (line,) = found()
    assert path == tmp_path / f"cache/models--tiny-world--tiny/snapshots/{FIRST}"
    assert ModelFolder(path).family.name == "wan2.1"
    fetched = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert fetched.isdisjoint(EXTRAS) and "google/umt5-xxl/tokenizer.json" in fetched
    assert line.startswith(f"{NAME}@{FIRST}, {len(fetched)} of {len(published())} files, 6.9 MB,")
    assert line.endswith(f" from {hub.endpoint}")


def test_nothing_is_fetched_twice_and_offline_the_cache_serves_alone(hub, monkeypatch):
    path, _ = found()
    sent = hub.bodies()
    assert sent == sorted(set(sent))
    assert found() == (path, [f"{NAME}@{FIRST}, from the cache"])
    assert hub.bodies() == sent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = list(hub.asked)
    assert found() == (path, [f"{NAME}@{FIRST}, from the cache (HF_HUB_OFFLINE is set)"])
    assert found(f"{NAME}@{FIRST[:9]}")[0] == path
    assert hub.asked == asked


def test_a_revision_is_taken_as_it_was_and_a_moved_branch_as_it_is(hub):
    hub.files[SECOND] = hub.files[FIRST] | {"config.json": b"{}"}
    old, _ = found()
    hub.refs["main"] = SECOND
    new, _ = found()
    assert (old.name, new.name) == (FIRST, SECOND)
    assert (new / "config.json").read_bytes() == b"{}"
    assert found(f"{NAME}@{FIRST}")[0] == old
    assert (new / "Wan2.1_VAE.safetensors").resolve() == (old / "Wan2.1_VAE.safetensors").resolve()


def test_within_a_process_a_name_means_one_commit(hub):
    assert packaged.found(NAME).endswith(FIRST)
    hub.files[SECOND], hub.refs["main"] = hub.files[FIRST], SECOND
    assert packaged.found(NAME).endswith(FIRST)


def test_one_file_of_a_lora_repository_is_fetched_alone(hub):
    path, _ = found(f"{NAME}/pusa_lora.safetensors", "lora")
    assert path.name == "pusa_lora.safetensors" and path.is_file()
    assert set(hub.bodies()) == {"pusa_lora.safetensors", "config.json", "report.json"}


def test_what_a_broken_download_left_is_completed(hub, monkeypatch):
    path, _ = found(f"{NAME}/pusa_lora.safetensors")
    hub.asked.clear()
    _, (line,) = found()
    assert "of which 2 are there" in line
    assert "pusa_lora.safetensors" not in hub.bodies()
    (path.parent / "Wan2.1_VAE.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"is not whole in the cache .* --revision main$"):
        found()


def test_a_path_that_is_there_counts_before_a_name(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert found() == (Path(NAME), [])
    assert not hub.asked


def test_what_lies_in_the_cache_is_recorded_by_its_name_and_found_again(hub):
    path, _ = found()
    pinned = f"{NAME}@{FIRST}"
    assert packaged.named(str(path)) == pinned
    assert packaged.named(f"{path}/pusa_lora.safetensors") == f"{pinned}/pusa_lora.safetensors"
    assert packaged.here(pinned) == str(path)
    assert packaged.here(NAME) == NAME  # in a record that was a path
