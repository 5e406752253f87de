"""From a decoded frame to upright RGB of BT.709, whatever the camera wrote.

Display P3 is left as it is, with a warning; Dolby Vision that nothing else can show is refused.
Range and matrix are as tagged; without a tag it is BT.601 up to 576 lines and BT.709 above, as in
players. HLG, PQ and BT.2020 are brought to BT.709 by FFmpeg's scale filter, where what is brighter
than white is clipped. Display matrices are followed in all eight turns and mirrors.
"""

import itertools
import os
import warnings
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Colorspace
from jaxtyping import UInt8

from pusa_jax.progress import PusaWarning

_UNTAGGED, _BT709, _BT2020, _PQ, _HLG = 2, 1, 9, 16, 18
"""Code points of ISO 23091-2: matrix not given, BT.709; BT.2020 primaries; SMPTE 2084, HLG."""
_P3 = (11, 12)
"""Primaries of cinemas and displays."""
_UNKNOWN_TRANSFER, _IPT_PQ_C2 = (0, 2), 15
"""Transfers that say nothing, and the matrix of Dolby Vision's profile 5."""
_DOLBY_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_DOLBY_DATA = ("DOVI_METADATA", "DOVI_RPU_BUFFER")
"""What Dolby Vision is called in mp4, and what it has beside its frames."""
_TO_BT709 = "out_primaries=bt709:out_transfer=bt709:intent=relative_colorimetric"


Matrix = tuple[int, int, int, int]
"""a, b, c, d of ISO 14496-12; see `display_matrix`."""

Graphs = dict[tuple, Graph]
"""Filters that are made already, by what they take; to be shared by the frames of a clip."""


def check_colours(path: str | os.PathLike, tag: str | None, frame: Any) -> None:
    """Refuses colours that cannot be had, and warns of such as come out other than they are.

    Args:
      path: of the file, for messages.
      tag: of its codec.
      frame: of it.

    Raises:
      ValueError: it is Dolby Vision of profile 5, which no other decoder shows rightly.
    """
    is_dolby = tag in _DOLBY_TAGS or any(frame.side_data.get(kind) for kind in _DOLBY_DATA)
    is_untold = frame.color_trc in _UNKNOWN_TRANSFER
    if frame.colorspace == _IPT_PQ_C2 or (is_dolby and is_untold):
        raise ValueError(
            f"{path} is Dolby Vision whose colours only Dolby's own decoders know (profile 5); "
            "convert it to HDR10 or SDR."
        )
    if frame.color_primaries in _P3 and frame.color_trc not in (_PQ, _HLG):
        warnings.warn(
            f"{path} is in the colours of Display P3, which are taken as BT.709: paler; "
            "convert it to BT.709 to keep them.",
            PusaWarning,
            stacklevel=3,
        )


def upright_rgb(
    frame: av.VideoFrame, graphs: Graphs | None = None, matrix: Matrix | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as it is to be seen.

    Args:
      frame: as decoded.
      graphs: of the frames before; what is made for this one is added.
      matrix: how it is turned, where that is known; None looks into the frame, which then lives
        until Python looks for cycles.

    Raises:
      ValueError: it is HLG, PQ or BT.2020 and the installed FFmpeg cannot bring it to BT.709.
    """
    if frame.color_trc in (_PQ, _HLG) or frame.color_primaries == _BT2020:
        rgb = _tone_mapped(frame, {} if graphs is None else graphs)
    else:
        is_rgb = frame.format.name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal"))
        if frame.colorspace == _UNTAGGED and not is_rgb:
            is_high = frame.height > 576 or frame.width >= 1280
            frame.colorspace = Colorspace.ITU709 if is_high else Colorspace.ITU601
        # PyAV up to 16 heeds the colour matrix of a frame only when told another; rgb24 has none.
        rgb = frame.to_ndarray(format="rgb24", dst_colorspace=Colorspace.ITU601)
    return upright(rgb, display_matrix(frame) if matrix is None else matrix)


def _tone_mapped(frame: av.VideoFrame, graphs: Graphs) -> np.ndarray:
    shape = (frame.width, frame.height, frame.format.name)
    key = (*shape, frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range)
    try:
        if key not in graphs:
            graphs[key] = _to_bt709(frame)
        graphs[key].push(frame)
        result: Any = graphs[key].pull()
    except (av.FFmpegError, ValueError) as error:
        kind = {_PQ: "PQ (HDR10)", _HLG: "HLG"}.get(frame.color_trc, "BT.2020")
        raise ValueError(
            f"the video is {kind}, and the FFmpeg of PyAV {av.__version__} cannot bring it to "
            f"BT.709 ({error}); install a newer PyAV or convert it to SDR."
        ) from None
    return result.to_ndarray()


def _to_bt709(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    steps = [source, graph.add("scale", _TO_BT709), graph.add("format", "rgb24")]
    steps.append(graph.add("buffersink"))
    for before, after in itertools.pairwise(steps):
        before.link_to(after)
    graph.configure()
    return graph


def display_matrix(frame: av.VideoFrame) -> Matrix:
    """a, b, c, d of ISO 14496-12: a point (x, y) is shown at (ax + cy, bx + dy)."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(side), np.int32).tolist()
    return a, b, c, d


def upright(picture: UInt8[np.ndarray, "H W 3"], matrix: Matrix) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Turns and mirrors as a display matrix says; angles between go to the nearest right one."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
