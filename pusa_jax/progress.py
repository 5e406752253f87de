"""Progress on a terminal: one bar per stage, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done and how much there is."""


class PusaWarning(UserWarning):
    """What people should know of their input though it is used; the command line shows it."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


class Console:
    """Shows the stages of a run apart; a `Progress`."""

    def __init__(self):
        self._stage, self._since, self._bar = None, 0.0, None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Moves the bar of a stage, opening it and closing the one before if need be.

        Args:
          stage: name of the bar.
          done: of `total`; where a new bar begins, what was done before is not timed.
          total: of the stage.
          note: shown behind the bar.
        """
        if stage != self._stage:
            self.close()
            self._stage, self._since = stage, time.perf_counter()
            if sys.stderr.isatty():
                import tqdm  # only where there is a terminal: a pipeline needs few libraries

                self._bar = tqdm.tqdm(total=total, initial=done, desc=f"{stage:8}", leave=True)
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done == total:
            seconds = time.perf_counter() - self._since
            print(f"{stage}: {total}, {seconds:.1f} s", file=sys.stderr)

    def close(self) -> None:
        """Finishes the open bar."""
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = None, None
