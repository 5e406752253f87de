"""An export replaces an earlier one only, and only if it is asked to."""

import pytest

from pusa_jax.convert.folders.destination import check_destination


@pytest.fixture
def there(tmp_path):
    """An earlier export."""
    (tmp_path / "out" / "tokenizer").mkdir(parents=True)
    for name in ("a.safetensors", "config.json", "README.md", "tokenizer/spiece.model"):
        (tmp_path / "out" / name).write_text("x")
    return tmp_path / "out"


def test_an_earlier_export_is_replaced_if_that_is_asked(there, tmp_path):
    check_destination(there, overwrite=True, sources=[tmp_path / "model"])
    check_destination(there / "a.safetensors", overwrite=True)
    check_destination(tmp_path / "new")
    with pytest.raises(FileExistsError, match="out exists already; choose another folder, or --ov"):
        check_destination(there)


@pytest.mark.parametrize("name", ["notes.odt", "photo.png", "metrics.jsonl"])
def test_a_folder_with_anything_else_is_never_replaced(there, name):
    (there / "tokenizer" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no export; choose another folder"):
        check_destination(there, overwrite=True)


def test_neither_is_one_without_weights_nor_another_file(there, tmp_path):
    (there / "a.safetensors").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    for path in (there, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="is no export"):
            check_destination(path, overwrite=True)


def test_what_is_exported_is_not_replaced_by_itself(there):
    (there.parent / "link").symlink_to(there / "a.safetensors")
    for source in (there, there / "a.safetensors", there.parent / "link"):
        with pytest.raises(ValueError, match="which is exported; choose another folder"):
            check_destination(there, overwrite=True, sources=[source])
