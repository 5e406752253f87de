"""What cannot be had from the Hub is said in one line, with what would help."""

import re
import warnings

import pytest
from huggingface_hub import constants
from served_hub import FIRST

from pusa_jax.inference import packaged
from pusa_jax.progress import PusaWarning

NAME = "tiny-world/tiny"


def refused(name, kind="model"):
    """The line of a name that leads nowhere."""
    with warnings.catch_warnings(), pytest.raises((OSError, ValueError)) as caught:
        warnings.simplefilter("ignore", PusaWarning)
        packaged.found(name, kind)
    text = str(caught.value)
    assert "\n" not in text
    return type(caught.value), text


def test_no_such_repository_and_no_such_path(hub):
    kind, text = refused("some-body/some-thing/x")
    assert kind is FileNotFoundError
    assert text == (
        "there is no file or folder some-body/some-thing/x here, and no model repository "
        f"some-body/some-thing at {hub.endpoint}; if it is private, log in with `hf auth login` or "
        "set HF_TOKEN."
    )


def test_no_such_revision(hub):
    kind, text = refused(f"{NAME}@v2")
    assert kind is FileNotFoundError and text.startswith(
        f"{NAME} has no revision v2; {hub.endpoint}"
    )


def test_no_such_file(hub):
    kind, text = refused(f"{NAME}/pusa.safetensors")
    assert kind is FileNotFoundError
    assert text.startswith(
        f"{NAME} at {FIRST[:12]} has no file or folder pusa.safetensors; it has "
    )


def test_several_files_of_which_none_is_named(hub):
    kind, text = refused(NAME, "lora")
    assert kind is ValueError and text.endswith(f"; give {NAME}/FILE.")


def test_a_gated_repository(hub):
    hub.is_gated = True
    kind, text = refused(NAME)
    assert kind is PermissionError
    assert text.startswith(f"{NAME} is gated: agree to its terms at {hub.endpoint}/{NAME} and log")


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionError), (500, FileNotFoundError)])
def test_a_hub_that_answers_otherwise(hub, status, kind):
    hub.status = status
    found, text = refused(NAME)
    assert found is kind and f"HTTP {status}" in text


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    kind, text = refused(NAME)
    assert kind is FileNotFoundError
    assert "but http://127.0.0.1:9 cannot be reached (ConnectError(" in text
    assert re.search(rf"Where there is a network: hf download {NAME} --revision main --incl", text)


def test_a_hub_that_does_not_answer_is_not_waited_for(hub, monkeypatch):
    hub.delay = 1.0
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    _, text = refused(NAME)
    assert f"but {hub.endpoint} cannot be reached (ReadTimeout(" in text


def test_offline_and_not_in_the_cache(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _, text = refused(f"{NAME}@v1/a/lora.safetensors", "lora")
    assert text.endswith(
        "but HF_HUB_OFFLINE is set. Where there is a network: hf download tiny-world/tiny "
        "a/lora.safetensors --revision v1"
    )
    assert not hub.asked
