"""The structure of a JPEG file (ITU T.81): where it ends, and its restart intervals. Pure."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from common.cli.command import UserError

MAGIC, END = b"\xff\xd8", b"\xff\xd9"
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SEQUENTIAL, DEFINE_RESTART, SCAN = (0xC0, 0xC1), 0xDD, 0xDA
MAX_SIDE = 65_500  # of an image, by libjpeg
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # but for those within a scan: stuffed bytes, restarts


class Segment(NamedTuple):
    """A marker's code, and where the marker and what belongs to it begin and end."""

    code: int
    start: int
    stop: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the markers of a file up to its end marker, or to where it breaks off."""
    offset = len(MAGIC)
    while marker := _MARKER.search(data, offset):
        offset = marker.end()
        if marker[0] != END:
            offset += int.from_bytes(data[offset : offset + 2], "big")
        yield Segment(marker[1][0], marker.start(), offset)
        if marker[0] == END:
            return


def end_of(data: bytes) -> int:
    """Return where a file ends, behind its end marker; 0 when it has none. Some cameras send their whole buffer."""
    return next((segment.stop for segment in segments(data) if segment.code == END[1]), 0)


def restart_intervals(data: bytes) -> list[bytes]:
    """Return the restart intervals of a sequential file of one scan, each as a file of its own.

    No interval depends on another, so each decodes alone. Raises UserError for any other kind of file.
    """
    found = {segment.code: segment for segment in segments(data)}
    frame = next((found[code] for code in SEQUENTIAL if code in found), None)
    if frame is None or not {DEFINE_RESTART, SCAN, END[1]} <= found.keys():
        raise UserError("the image is damaged: its restart markers belong to no sequential JPEG")
    height, width, channels = struct.unpack_from(">HHB", data, frame.start + 5)
    factors = [data[frame.start + 11 + 3 * channel] for channel in range(channels)]
    across, down = 8 * max(factor >> 4 for factor in factors), 8 * max(factor & 15 for factor in factors)
    if channels == 1:
        across = down = 8
    (interval,) = struct.unpack_from(">H", data, found[DEFINE_RESTART].start + 4)
    blocks = -(-width // across) * -(-height // down)
    parts = RESTART.split(data[found[SCAN].stop : found[END[1]].start])
    if not interval or len(parts) != -(-blocks // interval) or interval * across > MAX_SIDE:
        raise UserError(f"the image is damaged: {len(parts) - 1} restart markers do not fit its size")
    files = []
    for number, part in enumerate(parts):
        head = bytearray(data[: found[SCAN].stop])
        struct.pack_into(">HH", head, frame.start + 5, down, min(interval, blocks - number * interval) * across)
        files.append(bytes(head) + part + END)
    return files
