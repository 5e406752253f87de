r"""What reaches the terminal: the one place where foreign text is made harmless and errors short.

Prompts, names, captions and what files say of themselves are printed by many commands. While a
command runs, both streams show control characters, direction marks and the like as `\u001b`.
"""

import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

LONGEST = 2000
"""Characters of a message; what is longer is cut."""

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, all but tab and the end of a line
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # direction marks and line separators
    "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # what nobody sees
    "\ud800-\udfff]"  # halves of characters, which no stream takes
)


def escaped(text: str) -> str:
    """Text with every character that does something other than show itself written out.

    The result is the same text for readers of JSON.
    """

    def written_out(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

    return _HARMFUL.sub(written_out, text)


def one_line(error: BaseException) -> str:
    """What an error says, as one line that is not too long."""
    text = escaped(" ".join((str(error) or type(error).__name__).split()))
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2 - 40
    return f"{text[:half]} ... ({len(text) - 2 * half} characters) ... {text[-half:]}"


class _Harmless:
    """A stream that writes escaped text; all else is that of the stream behind it."""

    def __init__(self, stream: Any):
        self._stream, self.is_inside_line = stream, False

    def write(self, text: str) -> int:
        self.is_inside_line = not text.endswith("\n") if text else self.is_inside_line
        # A progress bar begins with a return to the start of its line.
        front = "\r" if text.startswith("\r") and self._stream.isatty() else ""
        self._stream.write(front + escaped(text.removeprefix(front)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say_last(line: str) -> None:
    """Says what ends the command, whatever was being printed; may be called from any thread."""
    with contextlib.suppress(OSError, RuntimeError):  # a closed terminal, a stream in use
        front = "\n" * getattr(sys.stderr, "is_inside_line", False)
        print(f"{front}{line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Escapes everything that is printed meanwhile; may decorate a function."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Harmless, streams)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.stdout, sys.stderr = streams


def flush() -> None:
    """Brings out what was printed; where nobody reads any more, it goes nowhere, without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


NO_CHATTER = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # what the compiler thinks of a mesh
    "TPU_MIN_LOG_LEVEL": "3",  # that there is no TPU
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""Variables that silence libraries when they are imported; what the user has set stays."""


def quiet_libraries(*, until_exit: bool) -> None:
    """Silences what libraries say beside the errors they raise, which are told in one line.

    Orbax logs what it raises, and drops threads and coroutines that then complain of their own.

    Args:
      until_exit: whether the process ends with the command, so that nobody else's hooks are lost.
    """
    if until_exit:
        for name, value in NO_CHATTER.items():
            os.environ.setdefault(name, value)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=".*was never awaited")
    if until_exit:
        sys.unraisablehook = lambda unraisable: None
        threading.excepthook = lambda failed: None
