"""Settings of several videos side by side: those that are not the same in all."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 400
"""Characters of a value that are shown."""

MOST = 500
"""Fields of a record that are looked at; a stranger may have more."""

_LEFT_OUT = {"folder", "sha256", "settings"}
"""Of a job; the last two are laid open."""

PRINT = "fingerprint of "
"""Beginning of the names of fields that say what is in a file."""

MISSING = "–"
"""Where a video says nothing of a field."""


def settings_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What a video says of how it was made, as words, by name."""
    job = _table(record.get("job"))
    found = {name: value for name, value in job.items() if name not in _LEFT_OUT}
    found |= _table(job.get("settings"))
    found |= {n: v for n, v in _table(record.get("layout")).items() if n in ("at", "multipliers")}
    prints = _table(job.get("sha256"))
    found |= {f"{PRINT}{_name(path)}": str(v)[:12] for path, v in prints.items()}
    found |= {name: record[name] for name in ("pusa_jax", "jax", "backend") if name in record}
    if "mesh" in record:
        found["mesh used"] = record["mesh"]
    return {str(name): in_words(value) for name, value in list(found.items())[:MOST]}


def differing(all_settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Fields that are not the same in all, with the value of each.

    A fingerprint is a difference where two files have one name; that one of them is not used at all
    is seen by other fields.
    """
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    rows = {n: [settings.get(n, MISSING) for settings in all_settings] for n in names}

    def is_different(name: str, values: Sequence[str]) -> bool:
        same = {MISSING} if name.startswith(PRINT) else set()
        return len(set(values) - same) > 1

    return {name: values for name, values in rows.items() if is_different(name, values)}


def in_words(value: Any) -> str:
    """A value as people write it."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and not any(isinstance(v, dict | list) for v in value):
        text = ", ".join(map(in_words, value)) or "none"
    elif isinstance(value, str | int):
        text = str(value)
    else:
        text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]
