"""What a JPEG, PNG or WebP file says about itself, read before it is decoded."""

import struct
from typing import NamedTuple

from common.cli.command import UserError
from common.lerobot import jpeg
from stage1_convert.images.image import OTHER_TOPIC, check_size

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PNG_CHANNELS = {0: 1, 2: 3, 6: 4}  # color type -> channels; a palette (3) counts as one
WEBP_HEAD = struct.Struct("<4sI4s4sI")  # RIFF, its length, WEBP, the first chunk's name and length


class FileHeader(NamedTuple):
    """Size in pixels, format (jpeg, png, webp), bits of a channel, and number of channels."""

    height: int
    width: int
    file_format: str
    bits: int
    channels: int


def read_header(data: bytes, declared: str) -> FileHeader:
    """Return the header of a file; `declared` is the message's format.

    Raises UserError when the file is cut off, too large, or of a kind that is not supported.
    """
    try:
        if data.startswith(jpeg.MAGIC):
            header = _jpeg(data)
        elif data.startswith(PNG_MAGIC):
            header = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise UserError(f"the image is neither JPEG nor PNG nor WebP; its format says {declared!r}: {OTHER_TOPIC}")
    except struct.error:
        raise cut_in_header(data) from None
    check_size(header.height, header.width)
    return header


def cut_in_header(data: bytes) -> UserError:
    """Return the error for a file that ends in its header."""
    return UserError(f"the image is damaged: it is cut off in its header, after {len(data)} bytes")


def _jpeg(data: bytes) -> FileHeader:
    """Read the frame header (ITU T.81, B.2.2)."""
    offset = 2
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, offset)
        if prefix != 0xFF:
            raise UserError("the image is damaged: the JPEG has no frame header")
        if marker in FRAME_HEADERS:
            height, width, channels = struct.unpack_from(">HHB", data, offset + 5)
            _check_sampling(struct.unpack_from("xBx" * channels, data, offset + 10))
            break
        offset += 1 if marker == 0xFF else 2 + length
    if not ends_with_marker(data) and not jpeg.end_of(data):
        raise UserError("the image is damaged: the JPEG is cut off, its end marker is missing")
    return FileHeader(height, width, "jpeg", 8, channels)


def _check_sampling(factors: tuple[int, ...]) -> None:
    """Raise UserError when a channel has to be enlarged by no whole number, which libjpeg finds only where it does so.

    A factor is that of the width, times 16, plus that of the height.
    """
    across, down = ({factor >> shift & 15 for factor in factors} - {0} for shift in (4, 0))
    if any(max(sides) % side for sides in (across, down) for side in sides):
        found = ", ".join(f"{factor >> 4}x{factor & 15}" for factor in factors)
        raise UserError(
            f"a JPEG whose channels are sampled {found} is not supported; supported: factors that divide the largest: "
            f"{OTHER_TOPIC}"
        )


def ends_with_marker(data: bytes) -> bool:
    """Return whether a JPEG ends with its end marker, but for zeros."""
    return data.rstrip(b"\0").endswith(jpeg.END)


def _png(data: bytes) -> FileHeader:
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    if bits != 8 and (bits, color) != (16, 0):
        raise UserError(
            f"a PNG with {bits} bits per channel and color type {color} is not supported; supported: 8 bits, or "
            f"16 bits in one channel: {OTHER_TOPIC}"
        )
    return FileHeader(height, width, "png", bits, PNG_CHANNELS.get(color, 1))


def _webp(data: bytes) -> FileHeader:
    """Read the size from the first chunk (RFC 9649, 2.5 to 2.7)."""
    _, length, _, name, _ = WEBP_HEAD.unpack_from(data)
    if name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif name == b"VP8L":
        (sides,) = struct.unpack_from("<I", data, 21)
        width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    elif name == b"VP8X":
        flags, low, high, height_less_1 = struct.unpack_from("<BxxxHBI", data, 20)
        width, height = (high << 16 | low) + 1, (height_less_1 & 0xFFFFFF) + 1
        if flags & 2:
            raise UserError(f"an animated WebP is not supported; supported: WebP of one image: {OTHER_TOPIC}")
    else:
        raise UserError("the image is damaged: the WebP has no image header")
    if len(data) < length + 8:
        raise UserError(f"the image is damaged: the WebP is cut off, {len(data)} of {length + 8} bytes are there")
    return FileHeader(height, width, "webp", 8, 3)
