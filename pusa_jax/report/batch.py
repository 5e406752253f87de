"""The report of a batch: every video that its list names, and what became of the others."""

from pathlib import Path

from pusa_jax.progress import Progress, no_progress
from pusa_jax.report.comparing import Report, beside_alike, measured, names_of
from pusa_jax.report.manifest import read_manifest
from pusa_jax.report.sources import Source, open_source


def report_of(
    folder: Path, manifest: Path | None = None, on_progress: Progress = no_progress
) -> Report:
    """Measures the videos of a batch; those that cannot be read are listed with the reason.

    Raises:
      FileNotFoundError, NotADirectoryError, ValueError: it is no batch, see `read_manifest`, or
        none of its videos can be read.
    """
    landed = read_manifest(folder, manifest)
    missing = [(one.id, one.error) for one in landed if one.output is None]
    sources: list[Source] = []
    paths = [one.output for one in landed if one.output is not None]
    for number, (path, name) in enumerate(zip(paths, names_of(paths), strict=True), 1):
        on_progress("videos", number, len(paths))
        try:
            sources.append(open_source(path, name))
        except (ValueError, OSError) as error:
            missing.append((name, str(error)))
    if not sources:
        raise ValueError(f"{folder} has no video that can be read; the first: {missing[0][1]}")
    title = f"Batch {folder.absolute().name}"
    against = beside_alike(sources)
    return measured(title, sources, against, on_progress, missing, goes_on=True)
