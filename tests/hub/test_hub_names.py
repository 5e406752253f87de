"""Names on the Hub are told from paths, and come back from the cache with their commit."""

from pathlib import Path

import pytest

from pusa_jax.hub.names import HubName, name_of, parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wan-AI/Wan2.1-T2V-14B", ("Wan-AI/Wan2.1-T2V-14B", "main", "")),
        ("Wan-AI/Wan2.1-T2V-14B@37ec512", ("Wan-AI/Wan2.1-T2V-14B", "37ec512", "")),
        (
            "Kijai/Wan_comfy/Pusa/a b.safetensors",
            ("Kijai/Wan_comfy", "main", "Pusa/a b.safetensors"),
        ),
        ("o/n@v1.0/folder/", ("o/n", "v1.0", "folder")),
    ],
)
def test_names_have_a_repository_a_revision_and_what_is_inside(text, expected):
    name = parsed(text)
    assert (name.repository, name.revision, name.inside) == expected
    assert parsed(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "tiny",
        "/a/b",
        "./a/b",
        "../a/b",
        "~/a",
        "a/../b",
        "outputs/t2v.mp4",
        "runs/lora.safetensors",
        "a//b",
        "a/b/./c",
        "a/b/../c",
        "a--b/c",
        "a/",
        "",
        "a b/c",
        "C:\\models\\wan",
    ],
)
def test_paths_are_no_names(text):
    assert parsed(text) is None


def test_what_lies_in_the_cache_has_its_name_with_the_commit():
    commit = "0123456789" * 4
    path = f"/cache/models--Wan-AI--Wan2.1/snapshots/{commit}"
    expected = HubName(repository="Wan-AI/Wan2.1", revision=commit)
    assert name_of(path, Path("/cache")) == expected and expected.is_pinned
    assert str(name_of(f"{path}/a/b.pth", Path("/cache"))) == f"Wan-AI/Wan2.1@{commit}/a/b.pth"
    assert name_of(path, Path("/other")) is None
    assert not HubName(repository="o/n", revision=commit[:8]).is_pinned
