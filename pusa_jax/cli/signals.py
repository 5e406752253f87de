"""Signals that end a command let it clean up first, as an error would, and then end it for sure.

    Ctrl-C, SIGTERM, SIGHUP --> KeyboardInterrupt or SystemExit where Python runs next
             a second one, GRACE seconds,
             or amid an import -> what is half-written is removed, the process ends at once

Python sees a signal only when native code returns, which compiling does after minutes. A thread
that the signal wakes takes care of that. Amid an import an exception may meet native code that is
not prepared for one: modules of jaxlib abort then. The process ends without tearing down the
interpreter: threads of jax that still compile or compute would crash in it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from pusa_jax.cli.printing import say_last
from pusa_jax.files import temporary

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers that are taken over; a signal that is ignored, as by nohup, stays so."""

IMPORTS = "<frozen importlib._bootstrap>"
"""The code of Python that imports."""

GRACE = 5.0
"""Seconds that a command has to clean up."""


@contextlib.contextmanager
def ending_tidily(*, for_good: bool = False) -> Iterator[None]:
    """Turns a signal that would kill into an exception; may decorate a function.

    Training takes the signals over for itself while it has something to save.

    Args:
      for_good: whether the process is to end with the command; then it does, whatever happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if asked:  # a second one must not interrupt cleaning up
            return
        asked.append(number)
        if for_good and _is_importing(frame):
            _end_now(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    before = {n: signal.getsignal(n) for n in ENDING if signal.getsignal(n) in DEFAULTS}
    for number in before:
        signal.signal(number, end)
    try:
        with _watched(end) if for_good else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        asked.append(signal.SIGINT)  # however it came about
        raise
    finally:
        if asked:
            say_ended(asked[0])
            if for_good:
                leave(128 + asked[0])
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(ours: object) -> Iterator[None]:
    """Ends the process from a thread if the main one does not, while `ours` handles signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        first = _next(reader, ours)
        if first:
            timer = threading.Timer(GRACE, _end_now, [first])
            timer.daemon = True
            timer.start()
            if _next(reader, ours):
                _end_now(first)

    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)


def _next(reader: int, ours: object) -> int:
    """Waits for a signal that `ours` handles and returns its number."""
    while True:
        number = os.read(reader, 1)[0]
        if number in ENDING and signal.getsignal(number) is ours:
            return number


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the code that a signal has met is run by an import."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTS:
            return True
        frame = frame.f_back
    return False


def _end_now(number: int) -> None:
    temporary.remove_all_of_this_process()
    say_ended(number)
    leave(128 + number)


def say_ended(number: int) -> None:
    """Says in one line which signal has ended the command."""
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    say_last(f"pusa-jax: {how}.")


def leave(code: int) -> None:
    """Ends the process without tearing down the interpreter; what was printed is printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)
