"""What killed processes leave is removed; what a living one makes is not."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pusa_jax.files import locks, temporary
from pusa_jax.files.atomic import replacing
from pusa_jax.files.staging import alone, exchanged, staged

LEAVE = """
import os, signal, sys
from pathlib import Path
from pusa_jax.files.atomic import replacing
from pusa_jax.files.staging import staged
make = staged if sys.argv[2] == "folder" else replacing
with make(Path(sys.argv[1])) as made:
    file = made / "half" if made.is_dir() else made
    file.write_text("half")
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[3] == "die" else sys.stdin.read()
"""


def child(path, kind, fate):
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE, path, kind, fate],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_of_the_same_name_removes_what_a_killed_process_has_left(tmp_path, kind):
    assert child(tmp_path / "a", kind, "die").wait() == -signal.SIGKILL
    assert child(tmp_path / "b", kind, "die").wait() == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with (staged if kind == "folder" else replacing)(tmp_path / "a"):
        pass
    left = sorted(os.listdir(tmp_path))
    assert left[1:] == ["a"] and left[0].startswith(".b.")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_process_makes_stays(tmp_path, kind):
    other = child(tmp_path / "a", kind, "live")
    with (staged if kind == "folder" else replacing)(tmp_path / "a"):
        assert len(list(tmp_path.glob(".a.*.tmp"))) == 2
    other.communicate("")
    assert other.returncode == 0 and os.listdir(tmp_path) == ["a"]


def test_what_other_machines_have_left_goes_by_age(tmp_path):
    for name in ("young", "old"):
        (tmp_path / f".{name}.elsewhere-1-0123abcd.tmp").write_text("half")
    yesterday = time.time() - temporary.STALE_SECONDS - 1
    os.utime(tmp_path / ".old.elsewhere-1-0123abcd.tmp", (yesterday, yesterday))
    (tmp_path / ".notes.tmp").write_text("not ours")
    os.utime(tmp_path / ".notes.tmp", (yesterday, yesterday))
    temporary.remove_leftovers(tmp_path / "young")
    assert sorted(os.listdir(tmp_path)) == [".notes.tmp", ".young.elsewhere-1-0123abcd.tmp"]


def test_two_processes_of_one_number_get_different_names(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert len({temporary.name_for(tmp_path / "a") for _ in range(100)}) == 100


def test_who_waits_is_told_who_is_at_work(tmp_path):
    told, waits = [], threading.Event()

    def second():
        with alone(tmp_path / "a", lambda who: (told.append(who), waits.set())):
            pass

    with alone(tmp_path / "a", told.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
    thread.join()
    assert told == [locks.whoami()] and not os.listdir(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs renameat2")
def test_folders_change_places_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchanged(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "b") == ["a"]
    assert not exchanged(tmp_path / "a", tmp_path / "nowhere")


def many(folder, number):
    for turn in range(30):
        with replacing(folder / "a") as made:
            made.write_text(f"{number} {turn}")


def test_many_that_write_one_file_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=many, args=(tmp_path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
        assert worker.exitcode == 0
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text().endswith(" 29")


def test_a_full_disk_names_the_result(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.mp4'"):
        with replacing(tmp_path / "a.mp4"):
            raise OSError(28, "No space left on device")
    assert not os.listdir(tmp_path)


def test_a_folder_that_threads_still_write_to_is_removed(tmp_path):
    folder, stop = tmp_path / "busy", threading.Event()

    def write():
        number = 0
        while not stop.wait(0.001):
            number += 1
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{number}").touch()

    folder.mkdir()
    thread = threading.Thread(target=write)
    thread.start()
    threading.Timer(0.1, stop.set).start()
    temporary.remove(folder)
    thread.join()
    assert not folder.exists()
