"""Lists of clips: which media files there are, and their captions.

folder/metadata.csv      a column with files and one with captions (Pusa, DiffSynth: see COLUMNS);
                         with semicolons or tabs instead of commas if its header has them
folder/metadata.jsonl    one object with the same names in every line; metadata.json: a list of them
folder/*.txt             without a list: the caption of the file beside it, a.txt for a.mp4
folder/ or folder/train/ the media

Nothing is guessed: a line that can be read in two ways is named, and the list refused.
"""

import collections
import csv
import dataclasses
import json
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.files import fingerprints
from pusa_jax.listing import listed
from pusa_jax.media.pictures import PICTURES
from pusa_jax.progress import PusaWarning

LISTS = ("metadata.csv", "metadata.jsonl")
"""Names looked for in a folder."""

ARRAY = "metadata.json"
"""Looked for where there is none of those, for it may be a file of anything."""

ENDINGS = (".csv", ".tsv", ".jsonl")
"""Of lists of any name."""

MEDIA_FOLDERS = ("", "train")
"""Where the files of a list may lie, seen from its folder."""

VIDEOS = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
    ".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".gif",
)  # fmt: skip
"""Endings of clips, where no list names them."""

COLUMNS = {
    "file": (
        "file_name", "filename", "file", "file_path", "filepath", "path", "video", "video_path",
        "video_file", "image", "image_path", "image_file", "media", "media_path",
    ),
    "caption": ("text", "prompt", "caption"),
}  # fmt: skip
"""Names of the file and of its caption; capitals, hyphens and blanks in a header do not count."""


DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between the fields of a csv -> in words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One line of a list.

    Attributes:
      number: place in the list, from 0.
      line: of the file that is the list, from 1; 0 where the list is no file.
      name: file name as listed; identifies the clip.
      caption: as listed; empty where there is none.
      folder: where the list lies.
      fault: why the line cannot be used, if that is known already.
    """

    number: int
    name: str
    caption: str
    folder: Path
    fault: str = ""
    line: int = 0

    def find(self, ending: str = "") -> Path:
        """The media file, or the file beside it whose name has this ending.

        Raises:
          ValueError: the line names no file or two, or has no caption.
          FileNotFoundError: there is no such file.
        """
        if self.fault:
            raise ValueError(self.fault)
        if not self.name:
            raise ValueError("names no file.")
        if not self.caption:
            raise ValueError("has no caption.")
        for name in _spellings(self.name + ending):
            found = [path for b in MEDIA_FOLDERS if (path := self.folder / b / name).is_file()]
            if len(found) > 1 and not found[0].samefile(found[1]):
                raise ValueError(f"{name} is both in {self.folder} and in its folder train.")
            if found:
                return found[0]
        raise FileNotFoundError(
            f"{self.name}{ending} is neither in {self.folder} nor in its folder train."
        )


def _spellings(name: str) -> Iterator[str]:
    """A name as listed, with the slashes of Windows, and as other systems compose its accents."""
    for path in (name, name.replace("\\", "/")):
        yield from (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))


def read_clips(src: Path) -> list[Clip]:
    """Reads a list of clips.

    Args:
      src: folder with `metadata.csv` or `metadata.jsonl`, a file of either kind, or a folder of
        media with captions in `.txt` files beside them.

    Returns:
      all lines, also those that turn out to be unusable.

    Raises:
      FileNotFoundError: there is no such folder, or no list in it.
      ValueError: the list is empty or damaged, names its columns otherwise, or has a line that can
        be read in two ways.
    """
    if not src.exists():
        raise FileNotFoundError(f"{src} does not exist; a folder of clips is expected.")
    path = src
    if src.is_dir():
        found = [src / name for name in LISTS if (src / name).is_file()]
        found = found or [src / name for name in [ARRAY] if (src / name).is_file()]
        if not found:
            return _captioned(src)
        if len(found) > 1:
            raise ValueError(f"{src} has two lists ({' and '.join(LISTS)}); name one of them.")
        path = found[0]
    text = _text_of(path)
    reader = {".jsonl": _objects, ".json": _array}.get(path.suffix.lower(), _rows)
    clips = []
    for number, (line, file, caption) in enumerate(reader(path, text)):
        wrong = [
            f"the {what} is {json.dumps(value):.60}, a text is expected."
            for what, value in (("file", file), ("caption", caption))
            if not (value is None or isinstance(value, str))
        ]
        clips.append(
            Clip(
                number=number,
                name=_stripped(file),
                caption=_stripped(caption),
                folder=path.parent,
                fault=" ".join(wrong),
                line=line,
            )
        )
    if not clips:
        raise ValueError(f"{path} lists no clips.")
    _tell_of_twins(path, clips)
    return [writable(clip) for clip in clips]


def _tell_of_twins(path: Path, clips: Sequence[Clip]) -> None:
    """Warns of files that are listed several times; with several captions that may be meant."""
    count = collections.Counter(clip.name for clip in clips if clip.name)
    if twins := [repr(name) for name, number in count.items() if number > 1]:
        warnings.warn(
            f"{path} lists {len(twins)} files more than once: {listed(twins, 3)}; each line is a "
            "clip of its own.",
            PusaWarning,
            stacklevel=3,
        )


def writable(clip: Clip) -> Clip:
    """A clip whose texts go into files: halves of characters and bytes of no text are a fault."""
    texts = {"file": clip.name, "caption": clip.caption}
    safe = {
        what: text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
        for what, text in texts.items()
    }
    wrong = [what for what in texts if safe[what] != texts[what]]
    if not wrong:
        return clip
    fault = f"the {' and the '.join(wrong)} has what is no character of UTF-8."
    return dataclasses.replace(clip, name=safe["file"], caption=safe["caption"], fault=fault)


def _captioned(src: Path) -> list[Clip]:
    """The media of a folder, each with the `.txt` file beside it."""
    media = sorted(
        path
        for below in MEDIA_FOLDERS
        for path in (src / below).glob("*")
        if path.suffix.lower() in (*PICTURES, *VIDEOS) and not path.name.startswith(".")
    )
    if not any(path.with_suffix(".txt").is_file() for path in media):
        raise FileNotFoundError(
            f"{src} has no list of clips ({' or '.join(LISTS)}), nor captions in .txt files."
        )
    return [writable(_with_text(number, path, src)) for number, path in enumerate(media)]


def _with_text(number: int, path: Path, src: Path) -> Clip:
    beside, caption, fault = path.with_suffix(".txt"), "", ""
    if not beside.is_file():
        fault = f"has no caption: there is no {beside.name}."
    else:
        try:
            lines = [line.strip() for line in _lines(_text_of(beside)) if line.strip()]
        except ValueError as error:
            lines, fault = [], str(error)
        if len(lines) > 1:
            fault = f"{beside.name} has {len(lines)} lines of text; one caption is expected."
        else:
            caption = "".join(lines)
    name = path.relative_to(src).as_posix()
    return Clip(number=number, name=name, caption=caption, folder=src, fault=fault)


def _text_of(path: Path) -> str:
    """A text file in UTF-8 or, with its mark in front, UTF-16."""
    data = path.read_bytes()
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_lines(data[: error.start].decode("latin-1")))
        raise ValueError(
            f"{path} is damaged or no list of clips: line {line} is not UTF-8 (perhaps cp1252 or "
            "another code page); save it as UTF-8."
        ) from None
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise ValueError(
            f"{path} is damaged or no list of clips: it has zero bytes (perhaps UTF-16 without its "
            "mark); save it as UTF-8."
        )
    return text


def _lines(text: str) -> list[str]:
    # Not `splitlines`, which also splits at characters that captions may hold.
    return re.split("\r\n|\n|\r", text)


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any, Any]]:
    """Lines, files and captions of a csv; a record is one line: no quote swallows the next."""
    header: list[str] = []
    lines = _lines(text)
    delimiter, begin = _delimiter(lines)
    for number, line in enumerate(lines[begin:], 1 + begin):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            (row,) = csv.reader([line], strict=True, delimiter=delimiter)
            if line.count('"') % 2:  # which in a field without quotes around it is no error there
                raise csv.Error("their number is odd")
        except csv.Error as error:
            raise ValueError(
                f"{where}: its quotes do not match ({error}): {line!r:.100}; a caption with a "
                "comma stands in one pair of quotes, and quotes in it are doubled; captions of "
                "several lines need metadata.jsonl."
            ) from None
        if not header:
            header = row
            columns = _columns(header, path)
            continue
        if len(row) < len(header):
            raise ValueError(
                f"{where} has {len(row)} of the header's {len(header)} fields, between which stand "
                f"{DELIMITERS[delimiter]}: {line!r:.100}."
            )
        cause = _two_ways(line, row, header, delimiter)
        if cause:
            raise ValueError(
                f"{where} {cause}: {line!r:.100}; put a caption with {DELIMITERS[delimiter]} into "
                "quotes."
            )
        yield number, row[columns[0]], row[columns[1]]


def _two_ways(line: str, row: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    """Why a row may be another one whose caption was cut by a delimiter in it; empty if it is not.

    A row that lacks a field and has such a caption has as many fields as the header.
    """
    if len(row) > len(header):
        return f"has {len(row)} fields, the header {len(header)}"
    for number, (value, name) in enumerate(zip(row, header, strict=True)):
        if value[:1].isspace() and value.lstrip().startswith('"'):
            return f"has a blank before a quote in {value!r:.40}"
        if number and value.strip() and not name.strip():
            return f"has {value!r:.40} in a column without a name"
        quoted = value.replace('"', '""')
        is_odd = value[:1].isspace() and value.strip() and not name[:1].isspace()
        if is_odd and len(header) > 2 and f'{delimiter}"{quoted}"' not in line:
            return f"has a blank before {value.strip()!r:.40}, which may belong to the field before"
    return ""


def _delimiter(lines: Sequence[str]) -> tuple[str, int]:
    """What stands between the fields, and how many lines come before the header.

    Excel says it in a line of its own. Else it is the one by which the header names a file and a
    caption; where none does, or several do, it is a comma.
    """
    if lines and (said := re.fullmatch(r'"?sep=(.)"?', lines[0].strip(" "))):
        return (said[1] if said[1] in DELIMITERS else ","), 1
    header = next((line for line in lines if line.strip()), "")
    fitting = [
        each
        for each in DELIMITERS
        for row in [header.replace('"', "").split(each)]
        if all(len(_named(row, known)) == 1 for known in COLUMNS.values())
    ]
    return (fitting[0] if len(fitting) == 1 else ","), 0


def _objects(path: Path, text: str) -> Iterator[tuple[int, Any, Any]]:
    """Lines, files and captions of a list of JSON objects."""
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            pairs = json.loads(line, object_pairs_hook=tuple)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged or no list of clips: line {number}: {error}."
            ) from None
        if not line.lstrip().startswith("{"):
            raise ValueError(
                f"{path} is damaged or no list of clips: line {number} is no object: {line!r:.60}."
            )
        file, caption = _columns([name for name, _ in pairs], where)
        yield number, pairs[file][1], pairs[caption][1]


def _array(path: Path, text: str) -> Iterator[tuple[int, Any, Any]]:
    """Places from 1, files and captions of a JSON list of objects."""
    try:
        # Lists are lists, objects are tuples of pairs.
        objects = json.loads(text, object_pairs_hook=tuple)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no list of clips: {error}.") from None
    if not isinstance(objects, list) or not all(isinstance(each, tuple) for each in objects):
        raise ValueError(f"{path} is no list of clips: a JSON list of objects is expected.")
    for number, pairs in enumerate(objects, 1):
        file, caption = _columns([name for name, _ in pairs], f"{path}, object {number}")
        yield number, pairs[file][1], pairs[caption][1]


def _columns(header: Sequence[str], where: Any) -> tuple[int, int]:
    """Places of the file and of the caption."""
    places = []
    for what, known in COLUMNS.items():
        found = _named(header, known)
        if len(found) != 1:
            names = [repr(header[i])[:60] for i in (found or range(len(header)))[:40]]
            named = ", ".join(names) or "nothing"
            raise ValueError(
                f"{where} must have one column with the {what} ({', '.join(known)}), got {named}; "
                "as in file_name,text or video,prompt."
            )
        places.append(found[0])
    return places[0], places[1]


def _named(header: Sequence[str], known: Collection[str]) -> list[int]:
    """Places of the columns that are called as one of these, in any spelling."""
    spelled = [re.sub(r"[\s\-]+", "_", name.strip()).casefold() for name in header]
    return [index for index, name in enumerate(spelled) if name in known]


def _stripped(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def fingerprint(clips: Sequence[Clip]) -> str:
    """Tells lists apart by names and captions, in order."""
    return fingerprints.of_list((clip.name, clip.caption) for clip in clips)
