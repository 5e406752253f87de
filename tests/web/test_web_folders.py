"""Names that come from a browser become paths only where they were offered."""

import pytest

from pusa_jax.inference import packaged
from pusa_jax.web import folders as rooms
from pusa_jax.web.folders import Folders


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "models" / "wan").mkdir(parents=True)
    (tmp_path / "models" / "loras").mkdir()
    (tmp_path / "models" / "loras" / "pusa.safetensors").write_text("")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.safetensors").write_text("secret")
    (tmp_path / "models" / "leads-out").symlink_to(tmp_path / "outside")
    for name in ("results", "uploads"):
        (tmp_path / name).mkdir()
    (tmp_path / "uploads" / "a.png").write_text("a")
    return Folders(
        output=tmp_path / "results", uploads=tmp_path / "uploads", models=tmp_path / "models"
    )


def test_the_tiny_model_has_its_name():
    assert rooms.TINY == packaged.NAME


def test_what_lies_below_the_models_is_offered_and_links_that_lead_out_are_not(folders):
    assert folders.model_names() == ["tiny", "wan"]
    assert folders.lora_names() == ["loras/pusa.safetensors"]
    assert folders.model("wan") == str(folders.models / "wan")
    assert folders.lora("loras/pusa.safetensors") == str(folders.models / "loras/pusa.safetensors")


@pytest.mark.parametrize(
    "name", ["..", "../outside", "/etc", "wan/../..", "leads-out", "", "wan/../../outside"]
)
def test_no_other_name_is_a_model(folders, name):
    with pytest.raises(ValueError, match="there is no model"):
        folders.model(name)


@pytest.mark.parametrize("name", ["../outside/secret.safetensors", "leads-out/secret.safetensors"])
def test_no_other_name_is_a_lora_file_or_a_result(folders, name):
    with pytest.raises(ValueError, match="there is no LoRA file"):
        folders.lora(name)
    with pytest.raises(ValueError, match="there is no result"):
        folders.result(name)


def test_an_upload_is_kept_under_its_fingerprint_and_taken_again(folders):
    kept = folders.taken(str(folders.uploads / "a.png"), lambda path: "fine")
    assert kept.startswith(str(folders.output / "inputs")) and kept.endswith(".png")
    assert open(kept).read() == "a"
    assert folders.taken(kept, lambda path: "fine") == kept


@pytest.mark.parametrize("path", ["/etc/passwd", "{uploads}/../outside/secret.safetensors", ""])
def test_a_path_that_was_not_uploaded_is_not_read(folders, path):
    with pytest.raises(ValueError, match="was not uploaded"):
        folders.taken(path.format(uploads=folders.uploads), open)


def test_a_link_among_the_uploads_does_not_lead_out(folders):
    (folders.uploads / "link.png").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="was not uploaded"):
        folders.taken(str(folders.uploads / "link.png"), open)


def test_what_is_not_what_it_says_is_not_kept(folders):
    def look(path):
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        folders.taken(str(folders.uploads / "a.png"), look)
    assert not (folders.output / "inputs").exists()
