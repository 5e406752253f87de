"""A report on one screen of a terminal."""

from collections.abc import Sequence

from pusa_jax.report.comparing import Report, Seen

ROWS = 20
"""Videos that are listed; the page has them all."""

NAME = 24
"""Characters of a name."""

HEAD = ("video", "frames", "size", "seed", "given", "same as", "drift", "motion", "jump", "seam")
UNDER = ("", "", "", "", "dB/SSIM", "dB/SSIM", "ΔE", "levels", "at", "")


def table(report: Report) -> str:
    """The numbers of the videos, a line each, and the settings that differ."""
    rows = [HEAD, UNDER, *(_row(one) for one in report.seen[:ROWS])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [_line(row, widths) for row in rows]
    if len(report.seen) > ROWS:
        lines.append(f"... and {len(report.seen) - ROWS} more on the page")
    remarks: dict[str, list[str]] = {}
    for one in report.seen[:ROWS]:
        for remark in one.remarks:
            remarks.setdefault(remark, []).append(one.source.name)
    lines += [f"{', '.join(names)}: {text.rstrip('.')}." for text, names in remarks.items()]
    if report.missing:
        name, why = report.missing[0]
        lines.append(f"{len(report.missing)} could not be looked at; the first, {name}: {why}")
    if len(report.seen) > 1:
        lines.append(f"settings that differ: {', '.join(report.differing) or 'none'}")
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _row(one: Seen) -> tuple[str, ...]:
    name, found = one.source.name, one.summary()
    height, width = one.series.size
    at = "" if found["jump at"] is None else f"@{found['jump at']}"
    return (
        name if len(name) <= NAME else f"{name[: NAME - 9]}…{name[-8:]}",
        str(one.frames),
        f"{height}x{width}",
        seed_of(one),
        f"{number(found['given psnr'], 1)}/{number(found['given ssim'], 3)}".replace("–/–", "–"),
        f"{number(found['psnr'], 1)}/{number(found['ssim'], 3)}".replace("–/–", "–"),
        number(found["drift"], 1),
        number(found["motion"], 2),
        f"{number(found['jump'], 1)}{at}",
        number(worst_seam(found), 1),
    )


def worst_seam(found: dict[str, float | None]) -> float | None:
    """The greater of the jumps at borders and, of a loop, from its end to its start."""
    known = [value for value in (found["seam"], found["closing"]) if value is not None]
    return max(known, default=None)


def seed_of(one: Seen) -> str:
    """Seed of the noise, if the video says it."""
    settings = one.source.job.get("settings")
    seed = settings.get("seed") if isinstance(settings, dict) else None
    return "–" if seed is None else f"{seed!s:.12}"


def number(value: float | None, digits: int) -> str:
    """A number as people read it; a dash where there is none, or none that is defined."""
    if value is None or value != value:
        return "–"
    return "∞" if value == float("inf") else f"{value:.{digits}f}"
