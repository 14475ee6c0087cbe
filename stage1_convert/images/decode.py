"""A sensor_msgs Image or CompressedImage in; its RGB pixels, and the file to store when it can stay as it is, out.

Depth becomes gray by one fixed range: nearest 0, farthest 255, so that equal distances look equal in every frame; what
was not measured (0, NaN) becomes 0, too.
"""

import functools
import re
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.images import MAX_PIXELS, Image, decode_intact, decode_noting_extra

Depth = npt.NDArray[Any]  # (height, width)

# Encoding -> numpy's dtype (byte order by the message), channels, and OpenCV's conversion to RGB, by
# sensor_msgs/image_encodings.hpp. None: it is RGB; "depth": by the fixed range.
ENCODINGS: dict[str, tuple[str, int, int | str | None]] = {
    "rgb8": ("u1", 3, None),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC1": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "mono16": ("u2", 1, "depth"),
    "16UC1": ("u2", 1, "depth"),
    "32FC1": ("f4", 1, "depth"),
    # OpenCV's older names (BayerBG for RGGB) look at the second row; these look at the first, as ROS does.
    "bayer_rggb8": ("u1", 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": ("u1", 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": ("u1", 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": ("u1", 1, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
}
MM_PER_M = 1000.0
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PNG_MAGIC, JPEG_MAGIC, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # but for those within a scan: stuffed bytes, restarts
PNG_CHANNELS = {0: 1, 2: 3, 6: 4}  # color type -> channels; a palette (3) counts as one
DEPTH_HEADER = struct.Struct("<iff")  # of compressed_depth_image_transport: format, then depth_quant_a and _b


class CameraImage(NamedTuple):
    """An image: its size, its RGB pixels (height, width, 3) uint8, and its file when every reader decodes it to them.

    `file_format` is jpeg or png. `pixels` is None where a file was trusted unseen. `oddity` says what is odd about the
    recorded file though the image is whole.
    """

    height: int
    width: int
    pixels: Image | None
    file: bytes | None = None
    file_format: str = ""
    oddity: str = ""

    @classmethod
    def of_pixels(cls, pixels: Image) -> "CameraImage":
        """Return an image that has no file of its own."""
        height, width, _ = pixels.shape
        return cls(height, width, pixels)

    def rgb(self) -> Image:
        """Return the pixels, decoding now a file that was trusted unseen."""
        return self.pixels if self.pixels is not None else decode_intact(self.file or b"")


class _Header(NamedTuple):
    height: int
    width: int
    file_format: str
    bits: int
    channels: int


def read_image(message: Any, depth_range_m: Sequence[float] = (0.0, 4.0), trust: bool = False) -> CameraImage:
    """Return the image of an image message; depth in `depth_range_m` (nearest, farthest) becomes gray.

    With `trust` a color JPEG is not decoded: only its header and its end marker are looked at. Raises UserError when
    the image is damaged, larger than MAX_PIXELS or of a kind that is not supported.
    """
    if hasattr(message, "encoding"):
        return CameraImage.of_pixels(_raw(message, depth_range_m))
    data = message.data.tobytes()
    if "compressedDepth" in message.format:
        return CameraImage.of_pixels(_compressed_depth(data, message.format, depth_range_m))
    header = _read_header(data, message.format)
    if header.bits == 16:
        return CameraImage.of_pixels(_gray_of_mm(_read_depth_png(data, header), depth_range_m))
    file = data if header.channels == 3 else None
    if trust and file and header.file_format == "jpeg":
        return CameraImage(header.height, header.width, None, file, header.file_format)
    pixels, extra = decode_noting_extra(data)
    if pixels.shape != (header.height, header.width, 3):
        raise UserError(
            f"the image is damaged: it claims {header.height}x{header.width} pixels and decodes to {pixels.shape}"
        )
    oddity = ""
    if extra:
        oddity, start = f"{extra} bytes too many before the end marker", _jpeg_end(data) - len(JPEG_END)
        file = file and data[: start - extra] + data[start:]  # other decoders would print a line about each such image
    elif header.file_format == "jpeg" and not _ends_with_marker(data):
        oddity = f"{len(data) - _jpeg_end(data)} bytes behind the end marker"
    return CameraImage(header.height, header.width, pixels, file, header.file_format, oddity)


def _raw(message: Any, depth_range_m: Sequence[float]) -> Image:
    name, height, width = message.encoding, message.height, message.width
    if name not in ENCODINGS:
        raise UserError(f"encoding {name!r} is not supported; supported: {', '.join(ENCODINGS)}")
    dtype, channels, conversion = ENCODINGS[name]
    row_bytes, step, length = width * channels * int(dtype[1]), message.step, len(message.data)
    if not (height and width and step >= row_bytes and length == height * step):
        raise UserError(f"an image of {height}x{width} {name} with row step {step} does not fit its {length} bytes")
    _check_size(height, width)
    rows = np.ascontiguousarray(message.data.reshape(height, step)[:, :row_bytes])
    pixels = rows.view((">" if message.is_bigendian else "<") + dtype).reshape(height, width, channels)
    if conversion == "depth":
        return _gray_of_mm(pixels[..., 0], depth_range_m) if dtype == "u2" else _gray(pixels[..., 0], depth_range_m)
    if name.startswith("bayer") and (height < 2 or width < 2):
        raise UserError(f"an image of {height}x{width} {name} has no colors; expected at least 2x2 pixels")
    if channels == 2 and width % 2:
        raise UserError(f"an image of {height}x{width} {name} has an odd width; two pixels share their color")
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)  # type: ignore[return-value, arg-type]


def _gray(depth_m: Depth, depth_range_m: Sequence[float]) -> Image:
    return cv2.cvtColor(_shade(depth_m, *depth_range_m), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def _gray_of_mm(depth_mm: Depth, depth_range_m: Sequence[float]) -> Image:
    shades = _shade_of_every_mm(*depth_range_m)
    return cv2.cvtColor(shades[depth_mm], cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def _shade(depth_m: Depth, near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    measured = np.nan_to_num(depth_m.astype(np.float32), nan=0.0, posinf=far_m, neginf=0.0)
    scaled = np.clip((measured - near_m) * (255.0 / (far_m - near_m)), 0, 255)
    return np.where(measured > 0, np.rint(scaled), 0).astype(np.uint8)


@functools.cache
def _shade_of_every_mm(near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    return _shade(np.arange(1 << 16) / MM_PER_M, near_m, far_m)


def _compressed_depth(data: bytes, declared: str, depth_range_m: Sequence[float]) -> Image:
    """Return depth as gray: millimeters, or for 32FC1 the inverse a / (value - b) in meters; 0 was not measured."""
    if len(data) < DEPTH_HEADER.size:
        raise _cut_in_header(data)
    _, a, b = DEPTH_HEADER.unpack_from(data)
    png = data[DEPTH_HEADER.size :]
    if not png.startswith(PNG_MAGIC):
        raise UserError(f"depth of format {declared!r} is not supported; supported: PNG")
    depth = _read_depth_png(png, _read_header(png, declared))
    if not declared.startswith("32FC1"):
        return _gray_of_mm(depth, depth_range_m)
    known = (depth > 0) & (depth != b)
    depth_m = np.where(known, a / np.where(known, depth - np.float32(b), 1.0), np.nan)
    return _gray(depth_m, depth_range_m)


def _read_depth_png(data: bytes, header: _Header) -> npt.NDArray[np.uint16]:
    if header.file_format != "png" or header.bits != 16 or header.channels != 1:
        raise UserError(
            f"depth with {header.bits} bits in {header.channels} channels is not supported; supported: 16 bits in one"
        )
    depth = decode_intact(data, cv2.IMREAD_UNCHANGED)
    if depth.shape != (header.height, header.width):
        raise UserError(f"the image ({len(data)} bytes) does not decode to depth of {header.height}x{header.width}")
    return np.asarray(depth, np.uint16)


def _read_header(data: bytes, declared: str) -> _Header:
    """Read what a file says about itself, before it is decoded."""
    try:
        if data.startswith(JPEG_MAGIC):
            height, width, channels = _jpeg_shape(data)
            if not (_ends_with_marker(data) or _jpeg_end(data)):
                raise UserError("the image is damaged: the JPEG is cut off, its end marker is missing")
            _check_size(height, width)
            return _Header(height, width, "jpeg", 8, channels)
        if data.startswith(PNG_MAGIC):
            width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
            if bits != 8 and (bits, color) != (16, 0):
                raise UserError(
                    f"a PNG with {bits} bits per channel and color type {color} is not supported; supported: 8 bits, or "
                    "16 bits in one channel"
                )
            _check_size(height, width)
            return _Header(height, width, "png", bits, PNG_CHANNELS.get(color, 1))
    except struct.error:
        raise _cut_in_header(data) from None
    raise UserError(f"the image is neither JPEG nor PNG; its format says {declared!r}")


def _cut_in_header(data: bytes) -> UserError:
    return UserError(f"the image is damaged: it is cut off in its header, after {len(data)} bytes")


def _jpeg_shape(data: bytes) -> tuple[int, int, int]:
    """Return height, width and channels from the frame header (ITU T.81, B.2.2)."""
    offset = 2
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, offset)
        if prefix != 0xFF:
            raise UserError("the image is damaged: the JPEG has no frame header")
        if marker in FRAME_HEADERS:
            height, width, channels = struct.unpack_from(">HHB", data, offset + 5)
            return height, width, channels
        offset += 1 if marker == 0xFF else 2 + length


def _ends_with_marker(data: bytes) -> bool:
    return data.rstrip(b"\0").endswith(JPEG_END)


def _jpeg_end(data: bytes) -> int:
    """Return where a JPEG ends, behind its end marker; 0 when it has none. Some cameras send their whole buffer."""
    offset = len(JPEG_MAGIC)
    while marker := MARKER.search(data, offset):
        if marker[1] == JPEG_END[1:]:
            return marker.end()
        offset = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return 0


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width < MAX_PIXELS:
        raise UserError(f"an image of {height}x{width} pixels is refused; the limit is {MAX_PIXELS} pixels")
