"""What a long-lived pipeline keeps: a bounded number of things, of which those used last stay."""

import collections
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

SHAPES = 8
"""Compiled programs of a step that are kept; each takes some 50 MB of a host's memory."""

PROMPTS = 64
"""Prompts whose features are kept; each takes 4 MB of a device's memory at full size."""


class Kept(MutableMapping[Key, Value], Generic[Key, Value]):
    """A dictionary of at most so many entries; what was not used for longest goes first."""

    def __init__(self, most: int, on_drop: Callable[[Any], None] = lambda value: None):
        """Starts empty.

        Args:
          most: entries that are kept, at least 1.
          on_drop: told about each value that goes.
        """
        if most < 1:
            raise ValueError(f"at least one entry must be kept, got {most}.")
        self._most, self._on_drop = most, on_drop
        self._entries: collections.OrderedDict[Key, Value] = collections.OrderedDict()

    def __getitem__(self, key: Key) -> Value:
        """The value, which thereby was used last."""
        self._entries.move_to_end(key)
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        """Whether there is such an entry; this does not count as its use."""
        return key in self._entries

    def __setitem__(self, key: Key, value: Value) -> None:
        """Keeps a value; the one that was not used for longest goes where there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._on_drop(self._entries.popitem(last=False)[1])

    def __delitem__(self, key: Key) -> None:
        """Lets go of an entry."""
        self._on_drop(self._entries.pop(key))

    def __iter__(self) -> Iterator[Key]:
        """Keys, the one that was not used for longest first."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)
