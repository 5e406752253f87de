"""From a name to files in the cache of huggingface_hub; the only module that imports it.

Its variables count: HF_HOME and HF_HUB_CACHE (where), HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.
What is in the cache is not fetched again; without a network the cache serves alone.
"""

import contextlib
import dataclasses
import glob
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors

import pusa_jax
from pusa_jax.convert.files.open import PICKLED
from pusa_jax.hub.names import HubName
from pusa_jax.hub.needed import Kind, Needed, needed
from pusa_jax.progress import PusaWarning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What a repository has at one commit.

    Attributes:
      commit: 40 hexadecimal digits.
      sizes: file -> bytes, 0 where that is not known.
      reason: why it was read from the cache; empty if the Hub said it.
    """

    commit: str
    sizes: Mapping[str, int]
    reason: str = ""


def cache() -> Path:
    """The folder of the cache."""
    return Path(constants.HF_HUB_CACHE)


def fetched(name: HubName, kind: Kind, *, is_told: bool = True) -> tuple[Path, str]:
    """Fetches what is needed of a repository, unless it is in the cache.

    Args:
      name: of it, or of a part.
      kind: what is looked for.
      is_told: whether progress and a line about the commit are shown, the line as a `PusaWarning`.

    Returns:
      the file or folder in the cache, and the commit.

    Raises:
      FileNotFoundError: no such repository, revision or file, or it is not in the cache and there
        is no network.
      PermissionError: it is gated or private.
      ConnectionError: the Hub cannot be reached, or answers with an error.
      ValueError: it has many checkpoints, and none is named.
    """
    listing = _listing(name)
    chosen = _chosen(name, listing, kind)
    folder = _folder(name) / "snapshots" / listing.commit
    there = [file for file in chosen.files if (folder / file).exists()]
    if is_told:
        warnings.warn(_in_words(name, listing, chosen, len(there)), PusaWarning, stacklevel=2)
    if len(there) < len(chosen.files):
        if listing.reason:
            raise _miss(name, listing.reason, chosen)
        _download(name, listing.commit, chosen, is_told=is_told)
    return folder / chosen.path, listing.commit


def _listing(name: HubName) -> Listing:
    """What a repository has, by the Hub, or by the cache where that cannot be reached."""
    api = huggingface_hub.HfApi(library_name="pusa_jax", library_version=pusa_jax.__version__)
    try:
        with _in_one_line(name):
            info = api.model_info(
                name.repository,
                revision=name.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
    except ConnectionError as error:
        listing = _cached_listing(name, str(error).rstrip("."))
        if listing is None:
            raise _miss(name, str(error).rstrip(".")) from None
        return listing
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    return Listing(commit=str(info.sha), sizes=sizes)


def _cached_listing(name: HubName, reason: str) -> Listing | None:
    folder = _folder(name)
    ref = folder / "refs" / name.revision
    commit = ref.read_text("utf-8").strip() if ref.is_file() else name.revision
    found = sorted(folder.glob(f"snapshots/{glob.escape(commit)}*"))
    if len(found) != 1:
        return None
    commit, sizes = found[0].name, {}
    for file in found[0].rglob("*"):
        if file.is_file():
            sizes[str(file.relative_to(found[0]))] = file.stat().st_size
    # Older releases of the library (1.0) keep no list of what a repository has.
    read_tree = getattr(huggingface_hub, "get_cached_repo_tree", None)
    if read_tree is not None:
        with contextlib.suppress(errors.CachedRepoTreeNotFoundError):
            tree = read_tree(name.repository, revision=commit)
            sizes = {each.path: each.size or 0 for each in tree}
    return Listing(commit=commit, sizes=sizes, reason=reason)


def _chosen(name: HubName, listing: Listing, kind: Kind) -> Needed:
    """Which files are needed; what is wrong is said with the name of the repository."""
    at = f"{name.repository} at {listing.commit[:12]}"
    try:
        return needed(listing.sizes, name.inside, kind)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{at} has {error}.") from None
    except ValueError as error:
        raise ValueError(f"{at} has {error}; give {name.repository}/FILE.") from None


def _download(name: HubName, commit: str, chosen: Needed, *, is_told: bool) -> None:
    """Brings files into the cache; those that are there stay."""
    bars = None if is_told and sys.stderr.isatty() else _no_bar()
    for revision in dict.fromkeys((name.revision, commit)):  # by its name, it is found offline
        with _in_one_line(name):
            folder = huggingface_hub.snapshot_download(
                name.repository,
                revision=revision,
                allow_patterns=[glob.escape(file) for file in chosen.files],
                library_name="pusa_jax",
                library_version=pusa_jax.__version__,
                tqdm_class=bars,
            )
        if Path(folder).name == commit:  # else the branch has moved on meanwhile
            return


def _no_bar() -> Any:
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        def __init__(self, *args, **more):
            super().__init__(*args, **more | {"disable": True})

    return NoBar


@contextlib.contextmanager
def _in_one_line(name: HubName) -> Iterator[None]:
    """Says what is wrong in a line, and what would help."""
    where, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{name.repository}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(
            f"{name.repository} is gated: agree to its terms at {page} and {log_in}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"there is no file or folder {name} here, and no model repository {name.repository} at "
            f"{where}; if it is private, {log_in}."
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"{name.repository} has no revision {name.revision}; {page} shows its branches and "
            "commits."
        ) from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionError("HF_HUB_OFFLINE is set.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{where} refuses {name.repository} (HTTP {status}): {log_in}."
            ) from None
        raise ConnectionError(f"{where} answers HTTP {status} to {name.repository}.") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:
        cause = error.__cause__ or error
        raise ConnectionError(f"{where} cannot be reached ({cause!r:.100}).") from None


def _miss(name: HubName, reason: str, chosen: Needed | None = None) -> FileNotFoundError:
    """What to do where something is not in the cache and cannot be fetched."""
    wanted: list[str] = []
    if chosen is not None:
        wanted = [*chosen.files]
    elif Path(name.inside).suffix:
        wanted = [name.inside]
    command = ["hf", "download", name.repository, *wanted, "--revision", name.revision]
    if not wanted:
        for ending in (".json", ".model", ".safetensors", *PICKLED[:1]):
            command += ["--include", f"{name.inside}{'/' * bool(name.inside)}*{ending}"]
    return FileNotFoundError(
        f"there is no file or folder {name} here, and {name.repository} is not whole in the cache "
        f"{cache()}, but {reason}. Where there is a network: {shlex.join(command)}"
    )


def _in_words(name: HubName, listing: Listing, chosen: Needed, there: int) -> str:
    """Which commit a name is, and what is fetched of it."""
    text = f"{name.repository}@{listing.commit}"
    if there == len(chosen.files):
        return f"{text}, from the cache{f' ({listing.reason})' if listing.reason else ''}"
    total = sum(listing.sizes.get(file, 0) for file in chosen.files)
    size = f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
    have = f", of which {there} are there" if there else ""
    return (
        f"{text}, {len(chosen.files)} of {len(listing.sizes)} files, {size}{have}, "
        f"from {constants.ENDPOINT}"
    )


def _folder(name: HubName) -> Path:
    return cache() / f"models--{name.repository.replace('/', '--')}"
