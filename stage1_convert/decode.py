"""A sensor_msgs Image or CompressedImage in; the JPEG file to store and the RGB picture it decodes to, out."""

import os
import re
import struct
import tempfile
from typing import Any

import cv2
import numpy as np

from common.command import UserError, one_line
from common.pictures import Picture, decode_picture

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4}
TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
}
MAX_PIXELS = 1 << 24  # a small file can claim any size: it is compared with this before memory is taken
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# libjpeg and libpng conceal damage and only print a line about it; a padded colour profile is no damage.
DAMAGE = re.compile(rb"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS|libpng error")


def to_jpeg(message: Any, size: tuple[int, int] | None, quality: int) -> tuple[bytes, Picture]:
    """Return the JPEG file of an image message and the RGB picture (height, width, 3) uint8 it decodes to.

    A colour JPEG of the wanted `size` (height, width), or of any size when None, passes through unchanged. Everything
    else is encoded with 4:2:0 chroma at `quality`. Raises UserError when the picture is damaged or of a kind that is
    not supported.
    """
    data, picture = _recorded(message)
    if data is not None and size in (None, picture.shape[:2]):
        return data, picture
    jpeg = _encode(_resized(picture, size), quality)
    return jpeg, _decode(jpeg)


def to_picture(message: Any, size: tuple[int, int] | None) -> Picture:
    """Return the RGB picture (height, width, 3) uint8 of an image message, resized to `size` (height, width)."""
    return _resized(_recorded(message)[1], size)


def untouched_jpeg(message: Any, size: tuple[int, int] | None) -> tuple[bytes, tuple[int, int]] | None:
    """Return the JPEG file of a message and its (height, width) when it can pass through as it is, else None.

    Only its header and its end marker are looked at. Raises UserError when they are damaged.
    """
    if hasattr(message, "encoding"):
        return None
    data = message.data.tobytes()
    height, width, untouched = _compressed_header(data, message.format)
    return (data, (height, width)) if untouched and size in (None, (height, width)) else None


def _recorded(message: Any) -> tuple[bytes | None, Picture]:
    """Return the picture of a message, and its file where that is a JPEG that can pass through."""
    if hasattr(message, "encoding"):
        return None, _raw(message)
    data = message.data.tobytes()
    height, width, untouched = _compressed_header(data, message.format)
    picture = _decode(data)
    if picture.shape != (height, width, 3):
        raise UserError(f"the picture claims {height}x{width} and decodes to {picture.shape}")
    return data if untouched else None, picture


def _raw(message: Any) -> Picture:
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        raise UserError(f"encoding {message.encoding!r} is not supported; supported: {', '.join(CHANNELS)}")
    height, width, step, length = message.height, message.width, message.step, len(message.data)
    if not (height and width and step >= width * channels and length == height * step):
        raise UserError(f"{height}x{width} {message.encoding} with row step {step} does not fit {length} bytes")
    _check_size(height, width)
    rows = message.data.reshape(height, step)[:, : width * channels]
    picture = np.ascontiguousarray(rows).reshape(height, width, channels)
    return cv2.cvtColor(picture, TO_RGB[message.encoding]) if message.encoding in TO_RGB else picture  # type: ignore[return-value]


def _compressed_header(data: bytes, declared: str) -> tuple[int, int, bool]:
    """Return height, width, and whether this is a JPEG that every reader decodes to three 8-bit channels."""
    try:
        if data.startswith(b"\xff\xd8"):
            height, width, channels = _jpeg_shape(data)
            if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
                raise UserError("the JPEG is cut off: its end marker is missing")
            _check_size(height, width)
            return height, width, channels == 3
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height, depth = struct.unpack_from(">IIB", data, 16)
            if depth != 8:
                raise UserError(f"a PNG with {depth} bits per channel is not supported, only 8")
            _check_size(height, width)
            return height, width, False
    except struct.error:
        raise UserError(f"the picture ({len(data)} bytes) ends in its header") from None
    raise UserError(f"the picture is neither JPEG nor PNG; its format says {declared!r}")


def _jpeg_shape(data: bytes) -> tuple[int, int, int]:
    """Return height, width and channels from the frame header (ITU T.81, B.2.2)."""
    at = 2
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, at)
        if prefix != 0xFF:
            raise UserError("the JPEG has no frame header")
        if marker in FRAME_HEADERS:
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return height, width, channels
        at += 1 if marker == 0xFF else 2 + length


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width < MAX_PIXELS:
        raise UserError(f"a picture of {height}x{width} pixels is refused; the limit is {MAX_PIXELS} pixels")


def _decode(data: bytes) -> Picture:
    with tempfile.TemporaryFile() as told:
        stderr = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            picture = decode_picture(data)
        except cv2.error as error:
            raise UserError(f"the picture does not decode: {one_line(error)}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        told.seek(0)
        damage = next((line for line in told if DAMAGE.search(line)), None)
    if damage:
        raise UserError(f"the picture is damaged: {damage.decode(errors='replace').strip()}")
    return picture


def _resized(picture: Picture, size: tuple[int, int] | None) -> Picture:
    height, width, _ = picture.shape
    if size is None or size == (height, width):
        return picture
    shrinking = size[0] <= height and size[1] <= width
    way = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(picture, (size[1], size[0]), interpolation=way)  # type: ignore[return-value]


def _encode(picture: Picture, quality: int) -> bytes:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    )
    return data.tobytes()
