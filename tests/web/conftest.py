"""The page served by a process of its own, and a browser that the system has."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pusa_jax.media import video

NO_GRADIO = 'Gradio is not here: pip install ".[web-test]", or make web-test'
NO_CHROMIUM = "no Chromium here: apt-get install chromium"


class Served:
    """A running page.

    Attributes:
      address: of it.
      output: its folder of results.
      seconds: CPU time until it said its address.
    """

    def __init__(self, folder):
        pytest.importorskip("gradio", reason=NO_GRADIO)
        self.output, self.models = folder / "results", folder / "models"
        (self.models / "empty-model").mkdir(parents=True)
        command = [sys.executable, "-m", "pusa_jax", "web", "--port", "0", "--models", self.models]
        self.process = subprocess.Popen(
            [*command, "--output", self.output, "--no_compilation_cache"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        end = time.monotonic() + 120
        while select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
            line = self.process.stdout.readline()
            if line.startswith("pusa-jax web: "):
                self.address = line.split()[2]
                self.seconds = cpu_seconds(self.process.pid)
                return
            assert line, "the page has ended"
        self.close()
        raise AssertionError("no address in two minutes")

    def close(self):
        self.process.terminate()
        self.process.wait(60)


def cpu_seconds(pid):
    """User and system time of a process; None where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return None
    return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf(
        "SC_CLK_TCK"
    )


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The page with the tiny model."""
    served = Served(tmp_path_factory.mktemp("web"))
    yield served
    served.close()


@pytest.fixture(scope="session")
def chromium():
    """The system's browser without a window."""
    api = pytest.importorskip("playwright.sync_api", reason=NO_GRADIO)
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def picture(tmp_path):
    """A red square on black."""
    frame = np.zeros((48, 48, 3), np.uint8)
    frame[16:30, 6:20, 0] = 230
    video.write_png(tmp_path / "red.png", frame)
    return tmp_path / "red.png"
