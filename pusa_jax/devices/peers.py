"""What processes of a group tell each other, so that none of them waits for another in vain.

    agree   all hold the same record, or all end with the line that says where they differ
    from_first   what the first has made, as a name it has looked up, all have
    tell    what ends one process ends all, with its line
    part    all have come to the end

Meanwhile two threads watch: one hears what another process tells, one counts those that live. They
end this process wherever it is, as in the middle of a sum over all devices that never comes.

All goes through the service that jax starts in the first process. Where that one dies, or a beat of
a heart is missed, jax would abort from a thread of its own with a page of addresses; its way out
leads here, see `_Exit`.
"""

import contextlib
import ctypes
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed

from pusa_jax.devices import processes
from pusa_jax.files import locks
from pusa_jax.listing import listed

HEARTBEAT = 20
"""Seconds without a sign of life after which a process is taken for dead."""

LATENCY = 3.0
"""Seconds between two counts of those that live."""

GRACE = 5.0
"""Seconds in which all hear what one tells."""

DAY_MS = 24 * 3600 * 1000

SHOWN = 200
"""Characters of a value that are sent and shown; of a longer one the others are a digest."""

_END, _TOLD, _HOST, _COUNT = (f"pusa_jax/{name}" for name in ("end", "told", "host", "count"))

OnEnd = Callable[[str], None]
"""Ends the process with a line; does not return."""


class DisagreementError(ValueError):
    """Processes were given different jobs; the message is meant for all of them."""


class Group:
    """This process among the others.

    Attributes:
      advice: what is said behind the line that another process has caused, as how to go on.
    """

    def __init__(self, on_end: OnEnd):
        """Says nothing yet; `on_end` is called from a thread."""
        state = distributed.global_state
        assert state.client is not None
        self._client: Any = state.client
        self.index, self.count = state.process_id, state.num_processes
        self._on_end, self._is_over, self._last = on_end, threading.Event(), threading.Lock()
        self._meetings = self._made = 0
        self.advice: Callable[[], str] = str
        self._hosts: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=watch, daemon=True) for watch in (self._listen, self._number)
        ]

    def begin(self) -> None:
        """Makes sure that all know how many they are, and watches from then on.

        Raises:
          DisagreementError: this one was told another number than the first.
        """
        self._client.key_value_set(f"{_HOST}/{self.index}", locks.host())
        if self.index == 0:
            self._client.key_value_set(_COUNT, str(self.count))
        self._threads[0].start()
        expected = int(self._get(_COUNT))
        if expected != self.count:
            raise DisagreementError(
                f"{self.name(self.index)} was told of {self.count} processes, process 0 of "
                f"{expected}; give all the same number."
            )
        self._client.wait_at_barrier("pusa_jax/named", DAY_MS)
        # Behind a death nobody can ask any more.
        self._hosts.update(self._client.key_value_dir_get(_HOST))
        self._threads[1].start()

    def name(self, index: int) -> str:
        """A process in words."""
        host = self._hosts.get(f"{_HOST}/{index}")
        return f"process {index} of {self.count}" + (f" on {host}" if host else "")

    def _get(self, key: str) -> str:
        """A value, as soon as it is there; if its process fails, this one is ended instead."""
        return self._client.blocking_key_value_get(key, DAY_MS)

    def agree(self, record: Mapping[str, Any]) -> None:
        """Returns when all processes have given the same record; see the function."""
        self._meetings += 1
        here = f"pusa_jax/{self._meetings}"
        mine = {name: _short(value) for name, value in record.items()}
        self._client.key_value_set(f"{here}/of/{self.index}", json.dumps(mine))
        if self.index:
            self._get(f"{here}/same")
            return
        others = range(1, self.count)
        records = {i: json.loads(self._get(f"{here}/of/{i}")) for i in others}
        odd = [i for i in others if records[i] != mine]
        if odd:
            raise DisagreementError(
                f"{self.name(odd[0])} differs from process 0 in "
                f"{listed(_differences(records[odd[0]], mine), 3, '; ')}"
                + f"; so do {len(odd) - 1} others" * (len(odd) > 1)
                + ". Give all processes the same command line, files and versions."
            )
        self._client.key_value_set(f"{here}/same", "")

    def from_first(self, make: Callable[[], str]) -> str:
        """What the first process makes, in all; see the function."""
        self._made += 1
        key = f"pusa_jax/made/{self._made}"
        if self.index:
            return self._get(key)
        value = make()
        self._client.key_value_set(key, value)
        return value

    def tell(self, line: str, error: BaseException | None = None) -> None:
        """Lets all others end with a line, unless one of them has told its own: then that counts.

        Args:
          line: what is wrong here.
          error: where it comes from. One of the runtime may come from a process that has died:
            there is time to notice that.
        """
        if _is_of_runtime(error):
            time.sleep(HEARTBEAT + LATENCY + GRACE)
        for_all = isinstance(error, DisagreementError)
        text = line if for_all else f"{self.name(self.index)}: {line}"
        try:
            self._client.key_value_set(_END, json.dumps([self.index, text]))
        except jax.errors.JaxRuntimeError:  # one was faster, or the first process is dead
            time.sleep(2 * GRACE)
            return
        self._is_over.set()
        self._wait_for_others()

    def _wait_for_others(self) -> None:
        """Lets all others hear what was told, if this is the first: the service ends with it."""
        since = time.monotonic()
        while self.index == 0 and time.monotonic() - since < GRACE:
            if len(self._client.key_value_dir_get(_TOLD)) == self.count - 1:  # all but the teller
                return
            time.sleep(0.05)

    def part(self) -> None:
        """Waits until all others have come to the end as well, and lets go of them."""
        self._client.wait_at_barrier("pusa_jax/part", DAY_MS)
        self._is_over.set()
        jax.distributed.shutdown()
        for thread in self._threads:
            thread.join(GRACE)

    def _listen(self) -> None:
        """Waits for what another process tells, or for the death of the first."""
        while not self._is_over.is_set():
            try:
                index, text = json.loads(self._client.blocking_key_value_get(_END, DAY_MS))
            except jax.errors.JaxRuntimeError as error:
                if "UNAVAILABLE" in str(error):
                    time.sleep(GRACE / 2)  # it may have gone because another died: who counts knows
                    self.end_without_first()
                time.sleep(0.1)
                continue
            if index != self.index:
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first may be gone
                    self._client.key_value_set(f"{_TOLD}/{self.index}", "")
                    self._wait_for_others()
                self._end(text)
            return

    def _number(self) -> None:
        """Counts who lives; every process asks, and all get the answer when the last has asked."""
        everyone = range(self.count)
        while not self._is_over.wait(LATENCY):
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                alive = self._client.get_live_nodes(list(everyone))
                dead = [i for i in everyone if i not in alive]
                if dead and self.index in alive:
                    if self.index == 0:  # its service brings the others their answer
                        time.sleep(GRACE / 2)
                    more = f", and {len(dead) - 1} others" * (len(dead) > 1)
                    self._end(f"{self.name(dead[0])}{more} has died or cannot be reached.")

    def end_without_first(self) -> None:
        """Ends because the first process does not answer."""
        who = self.name(0) if self.index else "another process"
        self._end(f"{who} has died or cannot be reached.")

    def is_cut_off(self) -> bool:
        """Whether the first process does not answer."""
        try:
            self._client.blocking_key_value_get(_COUNT, int(GRACE * 1000))
        except jax.errors.JaxRuntimeError:
            return True
        return False

    def _end(self, line: str) -> None:
        with self._last:  # for ever: the process ends in here
            if not self._is_over.is_set():
                self._is_over.set()
                self._on_end(line + self.advice())


def _short(value: Any) -> str:
    text = str(value)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({digest})"


def _differences(theirs: Mapping[str, str], mine: Mapping[str, str]) -> list[str]:
    return [
        f"{name} ({theirs.get(name, 'none')}; process 0: {mine.get(name, 'none')})"
        for name in {**mine, **theirs}
        if theirs.get(name) != mine.get(name)
    ]


def _is_of_runtime(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Exit:
    """Jax's way out of a group that is broken.

    jax can be given a function to call instead of aborting, but cannot hand it the error, an object
    of C++ that Python does not know: the attempt calls C++'s handler of last resort. So that one is
    exchanged, by one that asks what is wrong with the group.
    """

    def __init__(self):
        self.group: Group | None = None
        self._keep = ctypes.CFUNCTYPE(None)(self)
        library = ctypes.CDLL("libstdc++.so.6")
        exchange = library._ZSt13set_terminatePFvvE
        exchange.restype = ctypes.c_void_p
        self._before = exchange(self._keep)

    def __call__(self, *status: Any) -> None:
        time.sleep(GRACE)  # who watches knows more, and ends the process
        if self.group is not None and self.group.is_cut_off():
            self.group.end_without_first()
        if not status and self._before:  # another matter altogether
            ctypes.CFUNCTYPE(None)(self._before)()

    @contextlib.contextmanager
    def instead_of_abort(self) -> Iterator[None]:
        """What is connected in here comes here to end."""
        module = distributed._jax
        connect = module.get_distributed_runtime_client
        module.get_distributed_runtime_client = lambda *args, **more: connect(
            *args, missed_heartbeat_callback=self, **more
        )
        try:
            yield
        finally:
            module.get_distributed_runtime_client = connect


_group: Group | None = None


def join(on_end: OnEnd, *, saves_on_sigterm: bool = False) -> None:
    """Joins the other processes, see `processes.join`, and watches them from then on.

    Args:
      on_end: ends this process with a line when another has failed or died; called from a thread.
      saves_on_sigterm: whether jax is to listen for SIGTERM, see `training.workdir.StopRequest`.

    Raises:
      ValueError: the environment is incomplete, or the processes are not told the same of it.
      RuntimeError: they did not come in time.
    """
    global _group
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    way_out: _Exit | None = None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, AttributeError):  # a system without that library
            way_out = _Exit()
            stack.enter_context(way_out.instead_of_abort())
        try:
            processes.join(heartbeat_timeout_seconds=HEARTBEAT)
        except RuntimeError:
            state = distributed.global_state
            raise RuntimeError(
                f"process {state.process_id} of {state.num_processes} did not find the others at "
                f"{state.coordinator_address} within {processes.PATIENCE} s, or another one has "
                "its number; start all of them, each with a number of its own."
            ) from None
    if not jax.distributed.is_initialized():
        return
    _group = Group(on_end)
    if way_out is not None:
        way_out.group = _group
    _group.begin()


def is_first() -> bool:
    """Whether this process talks; looks for no devices."""
    return _group is None or _group.index == 0


def agree(record: Mapping[str, Any]) -> None:
    """Makes sure, before any work, that all processes are to do the same.

    Args:
      record: name -> value, compared as text; all processes call this equally often.

    Raises:
      DisagreementError: in the first process, with a line that names a difference and its process;
        the others are ended by that line once it is told.
    """
    if _group is not None:
        _group.agree(record)


def from_first(make: Callable[[], str]) -> str:
    """What the first process makes, in all of them; the others wait for it and make nothing.

    All processes call this equally often. Where it fails, the first one tells the others.
    """
    return make() if _group is None else _group.from_first(make)


def tell(line: str, error: BaseException | None = None) -> None:
    """Ends all other processes with a line, because this one ends; nothing if it is alone."""
    if _group is not None:
        _group.tell(line, error)


def advise(advice: Callable[[], str]) -> None:
    """Says what is to be said behind a line that another process has caused."""
    if _group is not None:
        _group.advice = advice


def part() -> None:
    """Waits for the others at the end of all work; nothing if this process is alone."""
    global _group
    if _group is not None:
        _group.part()
        _group = None
