"""Jobs run one at a time in a thread that tells how far it is, and can be stopped."""

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pusa_jax.inference import jobs
from pusa_jax.web.preview import fitted
from pusa_jax.web.run import Cancelled, Made, News, Worker


@pytest.fixture
def worker(monkeypatch):
    """A worker whose jobs do as many steps as they say."""

    def run(prepared, on_progress, pipeline, on_latents):
        for i in range(prepared.steps):
            on_progress("denoise", i, prepared.steps)
            on_latents(i, np.zeros((1, 2, 4, 4, 3)))
        return None, {"steps": prepared.steps}, Path("made.mp4")

    monkeypatch.setattr(jobs, "run", run)
    colours = SimpleNamespace(strip=lambda latents: latents[0])
    monkeypatch.setattr(Worker, "_pipeline", lambda self, prepared, told: (None, colours))
    return Worker()


def test_news_come_before_what_is_made(worker):
    *news, made = worker.run(SimpleNamespace(steps=3), threading.Event())
    assert made == Made(path=Path("made.mp4"), record={"steps": 3})
    assert [n.done for n in news if n.preview is None and n.stage == "denoise"] == [0, 1, 2]
    assert any(n.preview is not None for n in news)


def test_a_cancelled_job_ends_and_the_next_one_runs(worker):
    cancelled = threading.Event()
    running = worker.run(SimpleNamespace(steps=10**9), cancelled)
    next(running)
    cancelled.set()
    with pytest.raises(Cancelled):
        list(running)
    assert isinstance([*worker.run(SimpleNamespace(steps=1), threading.Event())][-1], Made)


def test_nobody_listening_cancels(worker):
    running = worker.run(SimpleNamespace(steps=10**9), threading.Event())
    next(running)
    running.close()
    assert isinstance([*worker.run(SimpleNamespace(steps=1), threading.Event())][-1], Made)


def test_what_is_wrong_in_a_job_is_raised(worker, monkeypatch):
    def fails(*args, **others):
        raise OSError("no space left")

    monkeypatch.setattr(jobs, "run", fails)
    with pytest.raises(OSError, match="no space"):
        list(worker.run(SimpleNamespace(steps=1), threading.Event()))


def test_news_say_stage_count_and_time():
    news = News(stage="denoise", done=3, total=10, left=12.34)
    assert news.in_words() == "denoise 3/10, 12.3 s left"
    assert dataclasses.replace(news, total=1, left=None).in_words() == "denoise"


def test_colours_of_a_linear_encoder_are_found():
    matrix = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)

    def encode(pixels):
        return (pixels[:, :, ::8, ::8] @ matrix) + 0.3

    colours = fitted(encode, 8)
    shown = np.random.default_rng(2).random((2, 6, 6, 3), np.float32)
    strip = colours.strip((2 * shown - 1) @ matrix + 0.3)
    assert strip.shape == (96, 192, 3)
    small = np.concatenate([*shown], axis=1)
    np.testing.assert_allclose(strip[8::16, 8::16] / 255, small, atol=0.02)
