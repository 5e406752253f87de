"""The commands `pusa-jax compare` and `pusa-jax report`: their flags and what they print."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

COMPARE = """set videos beside each other: one page with pictures, numbers and settings

Frames in a row per video, PSNR and SSIM of given frames against what was given and of videos
against the first, drift of colour, motion, seams, and the settings that differ. The page is one
file: no server, nothing fetched. The numbers are printed as well."""

REPORT = """make the page of a batch: every video of its list, as in `pusa-jax compare`

Each video is held against the first of the same task, prompt and inputs."""

EPILOG = """examples:
  pusa-jax compare outputs/i2v.mp4 outputs/i2v-2.mp4
  pusa-jax compare steps-*.mp4 --output steps.html

The same of a whole batch: pusa-jax report DIR"""


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax compare`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = COMPARE, EPILOG
    parser.add_argument("videos", nargs="+", help="videos; the first is what others are held to")
    parser.add_argument(
        "--output", default="outputs/compare.html", help="page (default: outputs/compare.html)"
    )
    _add_overwrite(parser)
    parser.set_defaults(run=run_compare)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = REPORT
    parser.add_argument("folder", help="folder of a batch")
    parser.add_argument("--manifest", help="list of the batch (default: manifest.jsonl in it)")
    parser.add_argument("--output", help="page (default: report.html beside the list)")
    _add_overwrite(parser)
    parser.set_defaults(run=run_report)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is no page of pusa-jax"
    )


def run_compare(args: argparse.Namespace) -> int:
    """Writes a page of videos and prints their numbers."""
    args.console.begin()
    from pusa_jax.report import comparing

    paths = [Path(video) for video in args.videos]
    sources = comparing.open_all(paths)
    output = _checked(Path(args.output), paths, overwrite=args.overwrite)
    title = f"{len(sources)} videos side by side"
    report = comparing.measured(title, sources, comparing.beside_first(sources), args.console)
    return _show(report, output, args)


def run_report(args: argparse.Namespace) -> int:
    """Writes the page of a batch and prints its numbers."""
    args.console.begin()
    from pusa_jax.report import batch, manifest

    folder, listed = Path(args.folder), args.manifest and Path(args.manifest)
    beside = folder if listed is None else listed.parent
    manifest.read_manifest(folder, listed)
    output = Path(args.output or beside / "report.html")
    _checked(output, (), overwrite=args.overwrite)
    return _show(batch.report_of(folder, listed, args.console), output, args)


def _show(report, output: Path, args: argparse.Namespace) -> int:
    from pusa_jax.files.atomic import replacing
    from pusa_jax.report.page import page
    from pusa_jax.report.text import table

    with replacing(output) as part:
        part.write_text(page(report, output.absolute().parent), "utf-8", "replace")
    args.console.close()
    print(table(report))
    print(output)
    return 0


def _checked(output: Path, inputs: Sequence[Path], *, overwrite: bool) -> Path:
    """The path, if the page may be written there."""
    from pusa_jax.files.atomic import check_writable
    from pusa_jax.report.page import is_ours

    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page must end in .html, got {output.name!r}.")
    check_writable(output)
    if output.exists():
        if any(os.path.samefile(output, path) for path in inputs):
            raise ValueError(f"the output {output} is one of the videos; choose another name.")
        if not (overwrite or is_ours(output)):
            raise FileExistsError(
                f"{output} is no page of pusa-jax; --overwrite replaces it, or name another."
            )
    return output
