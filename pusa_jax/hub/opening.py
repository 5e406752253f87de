"""Where the file or folder is that a path or a name on the Hub stands for.

A path that is there counts before a name. Of several processes the first fetches and says which
commit it is; then the others take that one, from the cache they share or each into its own.
"""

import functools
import os
from pathlib import Path

from pusa_jax.hub.names import HubName, name_of, parsed
from pusa_jax.hub.needed import Kind


def found(path: str, kind: Kind = "model") -> str:
    """The path itself, or that of what a name stands for, fetched if need be.

    A name stands for the same throughout a process. All processes call this equally often.

    Args:
      path: as given.
      kind: what is looked for.

    Raises:
      OSError, ValueError: one line; see `hub.fetching.fetched`.
    """
    name = parsed(path)
    return path if name is None else _found(path, name, kind)


@functools.cache
def _found(path: str, name: HubName, kind: Kind) -> str:
    from pusa_jax.devices import peers

    here = ""

    def first() -> str:
        nonlocal here
        if os.path.exists(path):
            here = path
            return ""
        here, commit = _fetched(name, kind)
        return commit

    commit = peers.from_first(first)
    if here or not commit:
        return here or path
    pinned = HubName(repository=name.repository, revision=commit, inside=name.inside)
    return _fetched(pinned, kind)[0]


def _fetched(name: HubName, kind: Kind) -> tuple[str, str]:
    from pusa_jax.devices import peers
    from pusa_jax.hub.fetching import fetched

    place, commit = fetched(name, kind, is_told=peers.is_first())
    return str(place), commit


def named(path: str) -> str:
    """The name, with its commit, of what lies in the cache of the Hub; any other path stays."""
    if "/models--" not in path:
        return path
    from pusa_jax.hub.fetching import cache

    name: HubName | None = name_of(path, Path(cache()))
    return path if name is None else str(name)
