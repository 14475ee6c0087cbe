"""A sensor_msgs Image or CompressedImage in; its RGB pixels, and the file to store when it can stay as it is, out.

Depth becomes gray by one fixed range: nearest 0, farthest 255, so that equal distances look equal in every frame; what
was not measured (0, NaN) becomes 0, too.
"""

import functools
import os
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError, one_line
from common.lerobot.images import MAX_PIXELS, Image, decode_image

Pixels = npt.NDArray[Any]

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
DEPTH_HEADER = struct.Struct("<iff")  # of compressed_depth_image_transport: format, then depth_quant_a and _b
# libjpeg and libpng conceal damage and only print a line about it; a padded color profile is no damage.
DAMAGE = re.compile(rb"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS|libpng error")


class Still(NamedTuple):
    """An image: its size, its RGB pixels (height, width, 3) uint8, and its file when every reader decodes it to them.

    `form` is jpeg or png, the file's. `pixels` is None where a file was trusted unseen.
    """

    height: int
    width: int
    pixels: Image | None
    file: bytes | None = None
    form: str = ""

    def decoded(self) -> Image:
        """Return the pixels, of a file that was trusted unseen by decoding it now."""
        return self.pixels if self.pixels is not None else decode_sound(self.file or b"")


class _Header(NamedTuple):
    height: int
    width: int
    form: str
    bits: int
    channels: int


def read_still(message: Any, depth_range_m: Sequence[float] = (0.0, 4.0), trust: bool = False) -> Still:
    """Return the image of an image message.

    With `trust` a color JPEG is not decoded: only its header and its end marker are looked at. Raises UserError when
    the image is damaged, larger than MAX_PIXELS or of a kind that is not supported.
    """
    if hasattr(message, "encoding"):
        pixels = _raw(message, depth_range_m)
        return still_of(pixels)
    data = message.data.tobytes()
    if "compressedDepth" in message.format:
        return still_of(_compressed_depth(data, message.format, depth_range_m))
    head = _header(data, message.format)
    if head.bits == 16:
        return still_of(_gray_of_mm(_read_depth_png(data, head), depth_range_m))
    file = data if head.channels == 3 else None
    if trust and file and head.form == "jpeg":
        return Still(head.height, head.width, None, file, head.form)
    pixels = decode_sound(data)
    if pixels.shape != (head.height, head.width, 3):
        raise UserError(f"the image claims {head.height}x{head.width} and decodes to {pixels.shape}")
    return Still(head.height, head.width, pixels, file, head.form)


def still_of(pixels: Image) -> Still:
    """Return an image that has no file of its own."""
    height, width, _ = pixels.shape
    return Still(height, width, pixels)


def encode(image: Image, form: str, quality: int = 95) -> bytes:
    """Return an RGB image as a file: jpeg with 4:2:0 chroma at `quality`, or png."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if form == "png":
        return cv2.imencode(".png", bgr)[1].tobytes()
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])[1].tobytes()


def decode_sound(data: bytes) -> Image:
    """Decode a JPEG or PNG file to RGB; raises UserError also for damage that the decoder conceals."""
    image: Image = _listening(lambda: decode_image(data))
    return image


def _raw(message: Any, depth_range_m: Sequence[float]) -> Image:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise UserError(f"encoding {message.encoding!r} is not supported; supported: {', '.join(ENCODINGS)}")
    dtype, channels, way = encoding
    row_bytes = message.width * channels * int(dtype[1])
    height, width, step, length = message.height, message.width, message.step, len(message.data)
    if not (height and width and step >= row_bytes and length == height * step):
        raise UserError(f"{height}x{width} {message.encoding} with row step {step} does not fit {length} bytes")
    _check_size(height, width)
    rows = np.ascontiguousarray(message.data.reshape(height, step)[:, :row_bytes])
    pixels = rows.view((">" if message.is_bigendian else "<") + dtype).reshape(height, width, channels)
    if way == "depth":
        return _gray_of_mm(pixels[..., 0], depth_range_m) if dtype == "u2" else _gray(pixels[..., 0], depth_range_m)
    if message.encoding.startswith("bayer") and (height < 2 or width < 2):
        raise UserError(f"a bayer mosaic of {height}x{width} pixels has no colors")
    if channels == 2 and width % 2:
        raise UserError(f"{message.encoding} with an odd width of {width} pixels")
    return pixels if way is None else cv2.cvtColor(pixels, way)  # type: ignore[return-value, arg-type]


def _gray(depth_m: Pixels, depth_range_m: Sequence[float]) -> Image:
    return cv2.cvtColor(_shade(depth_m, *depth_range_m), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def _gray_of_mm(depth_mm: npt.NDArray[np.uint16], depth_range_m: Sequence[float]) -> Image:
    shades = _shade_of_every_mm(*depth_range_m)
    return cv2.cvtColor(shades[depth_mm], cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def _shade(depth_m: Pixels, near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    measured = np.nan_to_num(depth_m.astype(np.float32), nan=0.0, posinf=far_m, neginf=0.0)
    scaled = np.clip((measured - near_m) * (255.0 / (far_m - near_m)), 0, 255)
    return np.where(measured > 0, np.rint(scaled), 0).astype(np.uint8)


@functools.cache
def _shade_of_every_mm(near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    return _shade(np.arange(1 << 16) / MM_PER_M, near_m, far_m)


def _compressed_depth(data: bytes, declared: str, depth_range_m: Sequence[float]) -> Image:
    """Return depth as gray: millimeters, or for 32FC1 the inverse a / (value - b) in meters; 0 was not measured."""
    if len(data) < DEPTH_HEADER.size:
        raise UserError(f"the depth image ({len(data)} bytes) ends in its header")
    _, a, b = DEPTH_HEADER.unpack_from(data)
    png = data[DEPTH_HEADER.size :]
    if not png.startswith(PNG_MAGIC):
        raise UserError(f"a depth image of format {declared!r} is not supported, only PNG")
    depth = _read_depth_png(png, _header(png, declared))
    if not declared.startswith("32FC1"):
        return _gray_of_mm(depth, depth_range_m)
    known = (depth > 0) & (depth != b)
    depth_m = np.where(known, a / np.where(known, depth - np.float32(b), 1.0), np.nan)
    return _gray(depth_m, depth_range_m)


def _read_depth_png(data: bytes, head: _Header) -> npt.NDArray[np.uint16]:
    if head.form != "png" or head.bits != 16 or head.channels != 1:
        raise UserError(f"{head.bits} bits in {head.channels} channels are no depth image: expected 16 bits in one")
    depth = _listening(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    if depth is None or depth.shape != (head.height, head.width):
        raise UserError(f"the image ({len(data)} bytes) does not decode")
    return np.asarray(depth, np.uint16)


def _header(data: bytes, declared: str) -> _Header:
    """Read what a file says about itself, before it is decoded."""
    try:
        if data.startswith(JPEG_MAGIC):
            height, width, channels = _jpeg_shape(data)
            if not data.rstrip(b"\0").endswith(JPEG_END):
                raise UserError("the JPEG is cut off: its end marker is missing")
            _check_size(height, width)
            return _Header(height, width, "jpeg", 8, channels)
        if data.startswith(PNG_MAGIC):
            width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
            if bits != 8 and (bits, color) != (16, 0):
                raise UserError(f"a PNG with {bits} bits per channel and color type {color} is not supported")
            _check_size(height, width)
            return _Header(height, width, "png", bits, {2: 3, 6: 4}.get(color, 1))
    except struct.error:
        raise UserError(f"the image ({len(data)} bytes) ends in its header") from None
    raise UserError(f"the image is neither JPEG nor PNG; its format says {declared!r}")


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
        raise UserError(f"an image of {height}x{width} pixels is refused; the limit is {MAX_PIXELS} pixels")


def _listening(decode: Callable[[], Any]) -> Any:
    """Call an OpenCV decoder and read what its libraries print meanwhile on the process's stderr."""
    told = _told()
    stderr = os.dup(2)
    os.dup2(told, 2)
    try:
        image = decode()
    except cv2.error as error:
        raise UserError(f"the image does not decode: {one_line(error)}") from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        size = os.lseek(told, 0, os.SEEK_CUR)
        text = os.pread(told, size, 0) if size else b""
        if size:
            os.ftruncate(told, 0)
            os.lseek(told, 0, os.SEEK_SET)
    damage = next((line for line in text.splitlines() if DAMAGE.search(line)), None)
    if damage:
        raise UserError(f"the image is damaged: {damage.decode(errors='replace').strip()}")
    return image


_told_fds: dict[int, int] = {}  # one file in memory per process: opening one for every image would cost as much time


def _told() -> int:
    if os.getpid() not in _told_fds:
        _told_fds[os.getpid()] = os.memfd_create("told")
    return _told_fds[os.getpid()]
