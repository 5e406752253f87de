"""Commands that several processes run as one: joined, held against each other, ended together."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.cli.job import TASK_HELP
from pusa_jax.cli.parsing import USAGE_ERROR, UsageError
from pusa_jax.cli.printing import one_line, say_last
from pusa_jax.cli.signals import leave
from pusa_jax.files import temporary

COMMANDS = {*TASK_HELP, "rerun", "train", "fvd"}
"""Those in which processes join; others they run each for itself."""

FREE = {"--quiet", "--debug"}
"""Flags that processes need not agree on."""

_joined = False


@contextlib.contextmanager
def with_peers(argv: Sequence[str]) -> Iterator[None]:
    """Joins the other processes, if there are any and the command is one of theirs.

    What ends this process ends the others as well, with its line; and what ends another ends this
    one, from a thread.

    Raises:
      ValueError: the others have another command line, or other versions.
      RuntimeError: they did not come in time.
    """
    global _joined
    is_theirs = bool(argv) and argv[0] in COMMANDS and not {"--help", "-h"} & set(argv)
    if not is_theirs or not _are_there():
        yield
        return
    from pusa_jax.devices import peers

    try:
        _joined = True
        peers.join(_end, saves_on_sigterm=argv[0] == "train")
        peers.agree(_what_runs(argv))
        yield
        peers.part()
        _joined = False
    except BaseException as error:
        peers.tell(_last_words(error), error)
        raise


def _are_there() -> bool:
    from pusa_jax.devices import processes

    return processes.is_one_of_several(os.environ)


def is_first() -> bool:
    """Whether this is the process that talks."""
    if not _joined:
        return True
    from pusa_jax.devices import peers

    return peers.is_first()


def is_broken() -> bool:
    """Whether this process has left others that had joined it, so that none waits at its exit."""
    return _joined


def _end(line: str) -> None:
    """Ends the process because of another one."""
    temporary.remove_all_of_this_process()
    say_last(f"pusa-jax: error: {line}")
    leave(USAGE_ERROR)


def _last_words(error: BaseException) -> str:
    """What the others are told."""
    if isinstance(error, UsageError):
        return error.text
    if isinstance(error, KeyboardInterrupt):
        return "interrupted."
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return f"ended by {signal.Signals(error.code - 128).name}."
    return one_line(error)


def _what_runs(argv: Sequence[str]) -> dict[str, str]:
    """Command line and versions, by name."""
    import jax

    import pusa_jax
    from pusa_jax.files import fingerprints

    record = {"command": argv[0]}
    name = "command"
    for word in argv[1:]:
        if word.startswith("--"):
            name, _, record[name] = word.partition("=")
        else:
            record[name] = f"{record[name]} {word}".strip()
    top = Path(pusa_jax.__file__).parent
    parts = (top, top / "convert", top / "configs")  # links in a checkout, which are not followed
    code = fingerprints.of_files({file for part in parts for file in part.rglob("*.py")}, top)
    return {name: value for name, value in record.items() if name not in FREE} | {
        "version of pusa_jax": f"{pusa_jax.__version__}, code {code}",
        "version of jax": jax.__version__,
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),
    }


def agree_on(record: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same values by name; raises as below."""
    if _joined:
        from pusa_jax.devices import peers

        peers.agree(record)


def agree_on_job(prepared: Any, before: Mapping[str, Any] | None) -> None:
    """Makes sure that all processes have the same job and files; `before` is the one repeated.

    Raises:
      ValueError: they do not; says where.
    """
    if not _joined:
        return
    import jax

    from pusa_jax.devices import peers

    record = prepared.job.as_record()
    del record["folder"]  # relative paths lead elsewhere, to what must be the same
    device = jax.local_devices()[0]
    peers.agree(
        _flat(record)
        | {
            "output": prepared.output,
            "files of the model": fingerprint_of_model(prepared.model.folder),
            "mesh": dict(prepared.mesh.shape),
            "resident": prepared.resident,
            "device": f"{device.platform} {device.device_kind}",
            "latents to be met": (before or {}).get("latents_sha256"),
        }
    )


def agree_on_run(run: Any, weights: Any, workdir: Path) -> None:
    """Makes sure that all processes have the same run, data and workdir; raises as above."""
    if not _joined:
        return
    from pusa_jax.devices import peers
    from pusa_jax.files import fingerprints
    from pusa_jax.inference import packaged

    data, workdir = Path(run.data.folder), workdir.absolute()
    file = run.adapter.file if run.adapter else None
    peers.agree(
        _flat(run.record())
        | {
            "files of the model": weights and fingerprint_of_model(weights),
            "dataset": fingerprints.of_files(data.glob("*.json"), data),
            "adapters": file and fingerprints.of_file(packaged.found(file, "lora")),
            "checkpoints in the workdir": _saved_steps(workdir) or "none",
        }
    )
    peers.advise(
        lambda: (
            f" The newest whole checkpoint in {workdir} is of step "
            f"{max(_saved_steps(workdir), default='none')}; the same command goes on."
        )
    )


def _saved_steps(workdir: Path) -> list[int]:
    from pusa_jax.training.workdir import CHECKPOINTS

    return sorted(int(p.name) for p in workdir.glob(f"{CHECKPOINTS}/*") if p.name.isdigit())


def fingerprint_of_model(folder: Any) -> str:
    """Fingerprint of a model; a converted one has checksums of all files in its tables."""
    from pusa_jax.files import fingerprints

    top = folder.path
    if top.is_file():
        return fingerprints.of_files([top], top.parent)
    names = ["*.json", "*/tree.json", "tokenizer/*"] if folder.is_converted else ["**/*"]
    found = {path for name in names for path in top.glob(name) if path.is_file()}
    return fingerprints.of_files(found, top)


def _flat(record: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested tables as one, `settings.seed` for `seed` of `settings`."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{where}{name}.") if inner else {where + name: value}
    return flat
