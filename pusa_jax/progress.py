"""Progress on a terminal: one bar per stage, or plain lines where there is no terminal.

load ... 5.5 s                     a stage of few parts: its name at once, its time behind it
denoise: 3/30, 27.0 s left         one of many: every tenth of them, at most one line a second
denoise: 30, 38.9 s                and at least one a minute
decode ... . . 13.7 s              a dot every five seconds in which nothing else was shown
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done and how much there is."""

MANY = 10
"""Parts of a stage from which on they are counted without a terminal."""

BEGINNING = "starting ... "

BEAT = 5.0
"""Seconds without a word after which a sign of life is shown."""

OFTEN, SELDOM = 1.0, 60.0
"""Seconds between two lines, at least and at most."""


class PusaWarning(UserWarning):
    """What people should know of their input though it is used; the command line shows it."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


class Console:
    """Shows the stages of a run apart; a `Progress`, and a context that closes it.

    Where an error or Ctrl-C ends the context, what is shown stays as it is.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.perf_counter):
        """Shows nothing yet.

        Args:
          quiet: whether to show nothing at all.
          clock: seconds.
        """
        self._quiet, self._clock = quiet, clock
        self._stage: str | None = None
        self._bar: Any = None
        self._is_open = self._is_told = self._is_beginning = False
        self._first = self._since = self._last = self._tenth = 0.0
        self._dots = 0
        self._ended, self._lock = threading.Event(), threading.RLock()

    def __enter__(self) -> "Console":
        """Returns itself; from now on it shows that it lives while nothing else is shown."""
        if not self._quiet:
            threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, kind: Any, *_) -> None:
        """Closes; behind an error nothing is drawn again."""
        self._ended.set()
        if kind is not None and self._bar is not None:
            self._bar.disable = True  # or it would draw itself once more
            print(file=sys.stderr)
            self._bar = None
        self.close()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Shows how far a stage is, opening it and closing the one before if need be.

        Args:
          stage: its name.
          done: of `total`; where a new stage begins, what was done before is not timed.
          total: of the stage; nothing is shown of one without parts.
          note: shown behind.
        """
        if self._quiet or not total:
            return
        with self._lock:
            self._show(stage, done, total, note)

    def _show(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._first = stage, done
            self._since = self._last = self._clock()
            self._tenth, self._is_told = MANY * done // total, False
        if sys.stderr.isatty() and total > 1:
            self._move_bar(stage, done, total, note)
        elif total < MANY:
            self._name(stage, done, total)
        else:
            self._count(stage, done, total, note)

    def _live(self) -> None:
        while not self._ended.wait(BEAT):
            self.beat()

    def beat(self) -> None:
        """Shows a sign of life: a dot behind the name of a stage, or the bar's time."""
        if self._lock.acquire(blocking=False):  # else something is being shown right now
            try:
                if self._bar is not None:
                    self._bar.refresh()
                elif self._is_open or self._is_beginning:
                    print(". ", end="", file=sys.stderr, flush=True)
                    self._dots += 1
            finally:
                self._lock.release()

    def begin(self) -> None:
        """Shows on a terminal that something goes on; the first that follows takes its place."""
        if not self._quiet and sys.stderr.isatty():
            print(BEGINNING, end="", file=sys.stderr, flush=True)
            self._is_beginning = True

    def line(self, text: str) -> None:
        """Prints a line, above the bar if one is open."""
        if self._quiet:
            return
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            self._break()
            print(text, file=sys.stderr, flush=True)
            if self._bar is not None:
                self._bar.refresh()

    def close(self) -> None:
        """Finishes the open stage."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            self._break()
            self._stage, self._bar = None, None

    def _break(self) -> None:
        if self._is_beginning:
            width = len(BEGINNING) + 2 * self._dots
            print("\r" + " " * width, end="", file=sys.stderr)
            print("\r", end="", file=sys.stderr, flush=True)
        self._is_beginning = False
        if self._is_open:
            print(file=sys.stderr, flush=True)
        self._is_open, self._dots = False, 0

    def _move_bar(self, stage: str, done: int, total: int, note: str) -> None:
        if self._bar is None:
            self._break()
            import tqdm  # only where there is a terminal: a pipeline needs few libraries

            self._bar = tqdm.tqdm(total=total, initial=done, desc=f"{stage:8}", leave=True)
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def _name(self, stage: str, done: int, total: int) -> None:
        seconds = f"{self._clock() - self._since:.1f} s"
        if done < total:
            if not self._is_told:
                print(f"{stage} ... ", end="", file=sys.stderr, flush=True)
                self._is_open = self._is_told = True
        elif self._is_open:
            print(seconds, file=sys.stderr, flush=True)
            self._is_open = False
        else:
            print(f"{stage}: {seconds}", file=sys.stderr, flush=True)

    def _count(self, stage: str, done: int, total: int, note: str) -> None:
        now, tenth = self._clock(), MANY * done // total
        spent, behind = now - self._since, f"{note}, " if note else ""
        if done == total:
            self.line(f"{stage}: {total}, {behind}{spent:.1f} s")
        elif done > self._first and (
            (tenth > self._tenth and now - self._last >= OFTEN) or now - self._last >= SELDOM
        ):
            left = spent / (done - self._first) * (total - done)
            self.line(f"{stage}: {done}/{total}, {behind}{in_words(left)} left")
            self._last, self._tenth = now, tenth


def in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
