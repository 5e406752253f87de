"""Names on the Hub, and the paths in its cache that they stand for.

Wan-AI/Wan2.1-T2V-14B                     a repository, as it is now
Wan-AI/Wan2.1-T2V-14B@37ec512             at a revision: branch, tag or commit
Kijai/WanVideo_comfy/Pusa/pusa.safetensors   a file in it, or a folder
"""

import dataclasses
import re
from pathlib import Path

PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
"""A half of a repository's name, by the rules of the Hub."""

NAME = re.compile(
    rf"(?P<repository>{PART}/{PART})(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>[^/](?:.*[^/])?))?/?"
)

COMMIT = re.compile(r"[0-9a-f]{40}")

FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,11}")
"""Endings of files, which no repository is taken to have."""

CACHED = re.compile(
    r"(?P<cache>.*)/models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})"
    r"(?P<inside>/.*)?"
)
"""A path in the cache of the Hub, or in a copy of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubName:
    """A model repository, or a part of one.

    Attributes:
      repository: OWNER/NAME.
      revision: branch, tag or commit.
      inside: a file or folder in it; empty for all.
    """

    repository: str
    revision: str = "main"
    inside: str = ""

    def __str__(self) -> str:
        """As it was given."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repository}{revision}{'/' * bool(self.inside)}{self.inside}"

    @property
    def is_pinned(self) -> bool:
        """Whether it means the same for ever."""
        return bool(COMMIT.fullmatch(self.revision))


def parsed(text: str) -> HubName | None:
    """The name on the Hub that a text may be; None if it can only be a path."""
    found = NAME.fullmatch(text)
    if found is None or ".." in text or "--" in found["repository"]:
        return None
    if FILE.fullmatch(Path(found["repository"]).suffix):
        return None
    if not all(part.strip() not in ("", ".") for part in text.rstrip("/").split("/")):
        return None
    return HubName(
        repository=found["repository"],
        revision=found["revision"] or "main",
        inside=found["inside"] or "",
    )


def name_of(path: str, cache: Path) -> HubName | None:
    """The name, pinned to its commit, of what lies in the cache; None for any other path."""
    found = CACHED.fullmatch(path)
    if found is None or Path(found["cache"]) != cache:
        return None
    return HubName(
        repository=f"{found['owner']}/{found['name']}",
        revision=found["commit"],
        inside=(found["inside"] or "").strip("/"),
    )
