"""The page from outside: its files, its endpoints, and what it costs to start."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pusa_jax.media.outputs import read_record


@pytest.fixture(scope="module")
def client(served):
    """Calls the endpoints."""
    return pytest.importorskip("gradio_client").Client(served.address, verbose=False)


def code(served, path):
    """HTTP status of an address; `path` goes out as it is."""
    host, port = served.address.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), 60) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(line.recv(64).split()[1])


def generate(client, task, files=None, at="", noise="", **settings):
    settings = {"num_inference_steps": 2} | settings
    return client.predict(
        task, "a red circle moves right on black", files, at, noise, settings, api_name="/generate"
    )


def test_the_first_page_is_cheap(served):
    with urllib.request.urlopen(served.address, timeout=60) as page:
        assert page.status == 200 and b"gradio" in page.read()
    assert served.seconds is None or served.seconds <= 5


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{output}/../models/x.safetensors",
        "{output}/../../../../../../etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        sys.executable,
    ],
)
def test_no_file_outside_the_folders_is_served(served, path):
    (served.models / "x.safetensors").write_text("weights")
    assert code(served, "/gradio_api/file=" + path.format(output=served.output)) in (403, 404)


def test_a_job_of_a_client_is_that_of_the_command_line(served, client, picture):
    handle_file = pytest.importorskip("gradio_client").handle_file
    path, record = generate(client, "i2v", [handle_file(picture)], "2", "0.3", seed=9)
    assert read_record(path) == record
    job = record["job"]
    assert (job["task"], job["at"], job["multipliers"]) == ("i2v", [2], [0.3])
    assert job["settings"]["seed"] == 9 and job["model"] == "tiny"
    assert Path(job["inputs"][0]).parent == served.output / "inputs"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "../models"}, "there is no model"),
        ({"lora": "../../etc/passwd"}, "there is no LoRA file"),
        ({"num_frames": 34}, "nearest are 33 and 37"),
        ({"output": "x.mp4"}, "there is no setting"),
        ({"model": "empty-model"}, "empty-model"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(client, settings, words):
    with pytest.raises(Exception, match=words) as caught:
        generate(client, "t2v", **settings)
    assert "\n" not in str(caught.value)


def test_an_upload_that_is_not_what_it_says_is_refused(served, client, tmp_path):
    handle_file = pytest.importorskip("gradio_client").handle_file
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(Exception, match="not a picture"):
        generate(client, "i2v", [handle_file(tmp_path / "a.png")])


def test_a_path_that_is_no_upload_is_refused(client):
    file = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r"(?i)hostname|not.*allowed|upload|error"):
        generate(client, "i2v", [file])


def test_a_port_in_use_is_one_line(served):
    port = served.address.rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "pusa_jax", "web", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "--port" in done.stderr
