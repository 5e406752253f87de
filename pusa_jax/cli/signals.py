"""Signals that end a command let it clean up first, as an error would."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def ending_tidily() -> Iterator[None]:
    """Ends by SystemExit where SIGTERM or SIGHUP would kill; may decorate a function.

    A signal that is ignored, as by nohup, stays so. Training takes signals over for itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        for other in before:  # a second one must not interrupt cleaning up
            signal.signal(other, signal.SIG_IGN)
        print(f"pusa-jax: ended by {signal.Signals(number).name}.", file=sys.stderr)
        sys.exit(128 + number)

    before = {n: signal.getsignal(n) for n in ENDING if signal.getsignal(n) == signal.SIG_DFL}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
