"""A report as one page of HTML: no server, no script, nothing that is fetched.

Names, prompts and settings come from files that anybody may have made, so all of them are escaped,
and the page itself forbids whatever is not a picture inside it.
"""

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from pusa_jax.report import quality, svg
from pusa_jax.report.comparing import Report, Seen
from pusa_jax.report.style import STYLE
from pusa_jax.report.text import number, seed_of

MARK = '<meta name="generator" content="pusa_jax report">'
"""By which a page of ours is known."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

NOTABLE = 3.0
"""Jumps from which on are marked."""

NUMBERS = (
    ("given psnr", "given frames", "PSNR, dB", 1),
    ("given ssim", "", "SSIM", 3),
    ("psnr", "against another", "PSNR, dB", 1),
    ("ssim", "", "SSIM", 3),
    ("drift", "colour drift", "ΔE, greatest", 1),
    ("motion", "motion", "levels a frame", 2),
    ("jump", "jump", "greatest", 1),
    ("seam", "seam", "greatest", 1),
    ("closing", "loop", "end to start", 1),
)
"""Columns: name in `Seen.summary`, head, what is under it, digits."""

MEANING = {
    "given frames": "How near frames that were given are to the pictures given there; a picture "
    "stands for the last frame of its latent frame. mp4 alone costs some 40 dB, the autoencoder "
    "more, a noise multiplier above 0 more still.",
    "against another": "Frame by frame against the video named in its card. PSNR is of the mean "
    "squared error over all frames, SSIM is the mean over them (Wang et al. 2004, brightness, "
    "Gaussian window of 11 pixels).",
    "colour drift": "Distance of a frame's mean colour from that of the first frame (CIE 1976); "
    "2.3 is just noticed.",
    "motion": "Mean change of brightness from a frame to the next, of 255 levels. It tells noise "
    "and flicker from movement no better than a still from a slow pan.",
    "jump": "A change over the median of the four on either side; 1 is none. A cut is a jump.",
    "seam": "The jump where given frames begin or end, or a piece begins.",
    "loop": "The change from the last frame to the first, over those at either end; 1 is seamless.",
}


def page(report: Report, folder: Path) -> str:
    """The page.

    Args:
      report: what it shows.
      folder: where it will lie, for links to the videos.
    """
    seen = report.seen
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{MARK}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{escape(report.title)}</h1><p class="soft">{_in_short(report)}</p>',
        "<h2>At a glance</h2>",
        _glance(seen),
    ]
    if len(seen) > 1 and report.differing:
        parts += ["<h2>Settings that differ</h2>", _settings(report)]
    parts.append("<h2>Side by side in time</h2>")
    parts.append(
        '<p class="soft">Frames in a row, a column for each moment; given ones in amber. Under '
        "them the change from frame to frame (line) and the distance from the first frame's "
        "colour (grey), all videos on one scale; what is higher is cut off.</p>"
    )
    scales = _scales(seen)
    parts += [_card(report, one, i, scales, folder) for i, one in enumerate(seen)]
    if len(seen) <= svg.INKS:
        parts += ["<h2>Over time</h2>", _plots(seen)]
    if report.missing:
        rows = [(name, why) for name, why in report.missing]
        parts += ["<h2>Not to be seen</h2>", _table(("", "why"), rows, "words")]
    meanings = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in MEANING.items())
    parts.append(f"<h2>How to read the numbers</h2><dl>{meanings}</dl></body></html>\n")
    return "\n".join(parts)


def is_ours(path: Path) -> bool:
    """Whether a file is a page of this kind, so that another may take its place."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(1000)


def _in_short(report: Report) -> str:
    count = len(report.seen)
    words = ["1 video" if count == 1 else f"{count} videos"]
    if report.missing:
        words.append(f"{len(report.missing)} more that cannot be seen")
    if count > 1:
        names = list(report.differing)
        words.append(f"{', '.join(names[:8]) or 'no setting'} {_verb(names)}")
    return escape("; ".join(words) + ".")


def _verb(names: Sequence[str]) -> str:
    more = f"and {len(names) - 8} more differ" if len(names) > 8 else "differ"
    return "differs" if len(names) < 2 else more


def _glance(seen: Sequence[Seen]) -> str:
    summaries = [one.summary() for one in seen]
    used = [row for row in NUMBERS if any(s[row[0]] is not None for s in summaries)]
    heads = ["video", "frames<small>a second</small>", "size", "seed"]
    heads += [f"{escape(head)}<small>{escape(under)}</small>" for _, head, under, _ in used]
    rows = []
    for i, (one, found) in enumerate(zip(seen, summaries, strict=True)):
        height, width = one.series.size
        cells = [
            f"{_swatch(i, len(seen))}<bdi>{escape(one.source.name)}</bdi>",
            f"{one.frames}<small> at {one.source.fps:.4g}</small>",
            f"{height}×{width}",
            escape(seed_of(one)),
        ]
        for key, _, _, digits in used:
            text = number(found[key], digits)
            if key == "jump" and found["jump at"] is not None:
                text += f"<small> at {found['jump at']}</small>"
            cells.append(_marked(text, found[key]) if key in ("jump", "seam", "closing") else text)
        rows.append(cells)
    return _raw_table(heads, rows)


def _marked(text: str, jump: float | None) -> str:
    is_high = jump is not None and jump >= NOTABLE
    return f'<span class="high">{text}</span>' if is_high else text


def _settings(report: Report) -> str:
    found = report.differing
    rows = [
        (one.source.name, *(values[i] for values in found.values()))
        for i, one in enumerate(report.seen)
    ]
    return _table(("video", *found), rows, "words")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    bodies = [[f"<bdi>{escape(cell)}</bdi>" for cell in row] for row in rows]
    return _raw_table([escape(head) for head in heads], bodies, kind)


def _raw_table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _swatch(i: int, count: int) -> str:
    return f'<span class="swatch s{i}"></span>' if count <= svg.INKS else ""


def _scales(seen: Sequence[Seen]) -> tuple[float, float]:
    """Change and drift at the top of every strip: of the video in the middle, with room above."""
    changes = [float(np.quantile(s.series.changes, 0.98)) for s in seen if len(s.series.changes)]
    drifts = [float(quality.drift(one.series.colours).max()) for one in seen]
    change = float(np.median(changes)) if changes else 0.0
    return 1.5 * change or 1.0, max(1.5 * float(np.median(drifts)), 2.3)


def _card(report: Report, one: Seen, i: int, scales: tuple[float, float], folder: Path) -> str:
    source = one.source
    given = source.marked(one.frames)
    link = quote(Path(os.path.relpath(source.path, folder)).as_posix())
    prompt = source.job.get("prompt")
    task = source.job.get("task")
    lines = [
        f'<h3>{_swatch(i, len(report.seen))}<a href="{link}"><bdi>{escape(source.name)}</bdi></a>'
        f" <small>{escape(task) if isinstance(task, str) else ''}</small></h3>"
    ]
    if isinstance(prompt, str) and prompt:
        lines.append(f"<p><bdi>{escape(prompt[:1000])}</bdi></p>")
    if one.against:
        lines.append(f'<p class="soft">held against <bdi>{escape(one.against)}</bdi></p>')
    lines += [f'<p class="soft">{escape(remark.rstrip("."))}.</p>' for remark in one.remarks]
    figures = [
        _figure(one, frame, moment, given)
        for frame, moment in zip(one.shown, report.moments, strict=True)
    ]
    lines.append(f'<div class="sheet" style="--n:{len(figures)}">{"".join(figures)}</div>')
    ink = i if len(report.seen) <= svg.INKS else 0
    lines.append(_strip(one, given, scales, report.moments[-1], ink))
    lines += [_given(one), _seams(one)]
    return f'<section class="card">{"".join(lines)}</section>'


def _figure(one: Seen, frame: int | None, moment: float, given: frozenset[int]) -> str:
    if frame is None:
        return '<div class="over"></div>'
    data = base64.b64encode(one.series.pictures[frame]).decode()
    kind, word = (' class="given"', " given") if frame in given else ("", "")
    return (
        f'<figure{kind}><img alt="frame {frame}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{moment:.2f} s · {frame}{word}</figcaption></figure>"
    )


def _strip(
    one: Seen, given: frozenset[int], scales: tuple[float, float], end: float, ink: int
) -> str:
    fps, series = one.source.fps, one.series
    times = np.arange(one.frames) / fps
    shaded = [(frame / fps - 0.5 / fps, frame / fps + 0.5 / fps) for frame in sorted(given)]
    return svg.strip(
        end,
        len(one.shown),
        (times[1:], series.changes, scales[0]),
        (times, quality.drift(series.colours), scales[1]),
        _joined(shaded),
        [(frame - 0.5) / fps for frame in one.source.borders(one.frames)],
        ink,
    )


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in order, those that touch as one."""
    found: list[tuple[float, float]] = []
    for begin, stop in spans:
        if found and begin <= found[-1][1] + 1e-9:
            found[-1] = found[-1][0], stop
        else:
            found.append((begin, stop))
    return found


def _given(one: Seen) -> str:
    if not one.series.given:
        return ""
    multipliers = one.multipliers
    rows = [
        (str(frame), f"{multipliers[frame]:g}", number(quality.psnr(error), 1), number(alike, 3))
        for frame, (error, alike) in sorted(one.series.given.items())
    ]
    heads = ("frame", "noise multiplier", "PSNR, dB", "SSIM")
    return f"<details><summary>given frames</summary>{_table(heads, rows)}</details>"


def _seams(one: Seen) -> str:
    found = one.seams()
    if not found:
        return ""
    rows = [
        [str(frame), escape(what), _marked(number(jump, 1), jump)]
        for frame, (what, jump) in sorted(found.items())
    ]
    table = _raw_table(("frame", "what meets there", "jump"), rows)
    return f"<details><summary>seams</summary>{table}</details>"


def _plots(seen: Sequence[Seen]) -> str:
    def over_time(values: Sequence[np.ndarray], first: int = 0) -> list:
        return [
            (one.source.name, (np.arange(len(each)) + first) / one.source.fps, each)
            for one, each in zip(seen, values, strict=True)
        ]

    errors = [np.array([quality.psnr(error) for error in one.series.errors]) for one in seen]
    plots = [
        ("Motion", "levels a frame", over_time([one.series.changes for one in seen], 1)),
        ("Colour", "ΔE", over_time([quality.drift(one.series.colours) for one in seen])),
        ("Against another", "PSNR, dB", over_time(errors)),
        ("Against another", "SSIM", over_time([one.series.similar for one in seen])),
    ]
    shown = [
        f"<figure><figcaption>{name} <small>{unit}</small></figcaption>"
        f"{svg.lines(name, series)}</figure>"
        for name, unit, series in plots
        if any(len(values) for _, _, values in series)
    ]
    legend = "".join(
        f'<span style="margin-right:18px">{_swatch(i, len(seen))}'
        f"<bdi>{escape(one.source.name)}</bdi></span>"
        for i, one in enumerate(seen)
    )
    return f'<p>{legend}</p><div class="plots">{"".join(shown)}</div>'
