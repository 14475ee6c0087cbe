"""Decodes a sensor_msgs CompressedImage to RGB, and keeps its file where the dataset can store that unchanged.

The first word of a format ("bayer_rggb8; jpeg compressed ") is the encoding of the image that was compressed.
"""

import functools
import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot import jpeg
from common.lerobot.images import RGB, Image, decode_intact, decode_without_extra
from stage1_convert.config import Encoding
from stage1_convert.images.file_header import (
    PNG_MAGIC,
    FileHeader,
    cut_in_header,
    ends_with_marker,
    read_header,
)
from stage1_convert.images.image import OTHER_TOPIC, CameraImage, ImageRules, check_size
from stage1_convert.images.raw import LAYOUTS, image_from_array
from stage1_convert.images.rvl import decode_rvl

DEPTH_HEADER = struct.Struct("<iff")  # of compressed_depth_image_transport: format, then depth_quant_a and _b
RVL_SIZE = struct.Struct("<II")  # columns and rows, in front of RVL data
STORED = ("jpeg", "png")  # formats of files that a dataset can hold
# libjpeg at 1/8 scale and in gray reads every bit of the file, and so finds the same damage, but computes one number of 192.
EIGHTH = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
BLUE_FIRST = ("bgr8", "bgra8", "8UC3", "8UC4")  # words for OpenCV's order of channels
DEPTH = ("16UC1", "32FC1")
OF_16_BITS = tuple(name for name, layout in LAYOUTS.items() if layout.dtype == "u2")
OF_8_BITS = tuple(name for name, layout in LAYOUTS.items() if layout.dtype == "u1" and layout.channels != 2)


def read_compressed(message: Any, rules: ImageRules, lazy: bool) -> CameraImage:
    """Return the image of a message; with `lazy`, a color JPEG that can be stored as recorded is not decoded."""
    data, declared = message.data.tobytes(), message.format
    if "compressedDepth" in declared:
        return _compressed_depth(data, declared, rules)
    if not data:
        raise UserError("the message holds no image: 0 bytes")
    header = read_header(data, declared)
    word = declared.split(";")[0].strip()
    if header.bits == 16:
        return _of_16_bits(data, header, word, rules)
    if rules.encoding != word:
        _check_encoding(rules, f"a {header.file_format.upper()} file of 8 bits", OF_8_BITS)
    mosaic = _bayer(rules.encoding or word, 8)
    if mosaic and (header.channels == 1 or rules.encoding not in (None, word)):
        plane = _decode(data, header, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        return image_from_array(plane[..., None], mosaic, rules)
    return _color(data, header, _is_swapped(rules.encoding, word), lazy)


def verify_jpeg(image: CameraImage, whole: bool) -> CameraImage:
    """Verify a JPEG that was read lazily: return it with its pixels when `whole`, else decode it at 1/8 scale to find damage.

    One whose file cannot stay as it is has its pixels in any case. Raises UserError when it is damaged, alike for both.
    """
    assert image.file is not None
    header = FileHeader(image.height, image.width, image.file_format, 8, 3)
    pixels, file, oddity = _decode_color(image.file, header, whole)
    if file is None and not whole:
        return verify_jpeg(image, whole=True)
    return image._replace(pixels=pixels if whole else None, file=file, oddity=oddity)


def _color(data: bytes, header: FileHeader, swapped: bool, lazy: bool) -> CameraImage:
    size, file_format = (header.height, header.width), header.file_format
    stays = header.channels == 3 and not swapped and file_format in STORED
    kind = "gray" if header.channels == 1 else f"color{', red and blue swapped' if swapped else ''}"
    if lazy and stays and file_format == "jpeg":
        return CameraImage(*size, None, kind, data, file_format)
    pixels, file, oddity = _decode_color(data, header)
    pixels = np.ascontiguousarray(pixels[..., ::-1]) if swapped else pixels
    return CameraImage(*size, pixels, kind, file if stays else None, file_format, oddity=oddity)


def _decode_color(data: bytes, header: FileHeader, whole: bool = True) -> tuple[Image, bytes | None, str]:
    """Return the pixels, whole or at 1/8 scale, the file if other decoders can read it silently, and what is odd about it."""
    pixels, clean = decode_without_extra(data, RGB if whole else EIGHTH)
    _check_shape(pixels, header, 1 if whole else 8)
    if clean is None:
        return pixels, None, "bytes too many before its restart markers"
    if len(clean) < len(data):
        return pixels, clean, f"{len(data) - len(clean)} bytes too many before the end marker"
    if header.file_format == "jpeg" and not ends_with_marker(data):
        return pixels, data, f"{len(data) - jpeg.end_of(data)} bytes behind the end marker"
    return pixels, data, ""


def _is_swapped(encoding: Encoding | None, word: str) -> bool:
    """Return whether an override contradicts the order of channels by which the file was made."""
    return encoding is not None and (encoding in BLUE_FIRST) != (word in BLUE_FIRST)


@functools.cache
def _bayer(word: str, bits: int) -> Encoding | None:
    """Return the encoding of a mosaic with that many bits, as which a file holds it; None where the word names none."""
    return next((name for name in LAYOUTS if word.startswith("bayer") and name == f"{word[:10]}{bits}"), None)


def _decode(data: bytes, header: FileHeader, *flags: int) -> Image:
    pixels = decode_intact(data, *flags)
    _check_shape(pixels, header)
    return pixels


def _check_shape(pixels: Image, header: FileHeader, scale: int = 1) -> None:
    if pixels.shape[:2] != (-(-header.height // scale), -(-header.width // scale)):
        raise UserError(
            f"the image is damaged: it claims {header.height}x{header.width} pixels and decodes to {pixels.shape}"
        )


def _of_16_bits(data: bytes, header: FileHeader, word: str, rules: ImageRules) -> CameraImage:
    """Return depth, or what the word says of a PNG with 16 bits."""
    _check_encoding(rules, "a PNG file of 16 bits", OF_16_BITS)
    name = rules.encoding or _bayer(word, 16) or ("mono16" if word == "mono16" else "16UC1")
    return image_from_array(_read_16_bits(data, header)[..., None], name, rules)


def _read_16_bits(data: bytes, header: FileHeader) -> npt.NDArray[np.uint16]:
    if header.file_format != "png" or header.bits != 16 or header.channels != 1:
        raise UserError(
            f"depth with {header.bits} bits in {header.channels} channels is not supported; supported: 16 bits in one: "
            f"{OTHER_TOPIC}"
        )
    return np.asarray(_decode(data, header, cv2.IMREAD_UNCHANGED), np.uint16)


def _compressed_depth(data: bytes, declared: str, rules: ImageRules) -> CameraImage:
    """Return depth: millimeters, or for 32FC1 the inverse a / (value - b) in meters; 0 was not measured."""
    _check_encoding(rules, "compressedDepth", DEPTH)
    if len(data) < DEPTH_HEADER.size:
        raise cut_in_header(data)
    _, a, b = DEPTH_HEADER.unpack_from(data)
    depth = _depth_numbers(data[DEPTH_HEADER.size :], declared)
    if not (rules.encoding or declared).startswith("32FC1"):
        return image_from_array(depth[..., None], "16UC1", rules)
    known = (depth > 0) & (depth != b)
    depth_m = np.where(known, a / np.where(known, depth - np.float32(b), 1.0), np.nan)
    return image_from_array(depth_m[..., None], "32FC1", rules)


def _depth_numbers(data: bytes, declared: str) -> npt.NDArray[np.uint16]:
    if data.startswith(PNG_MAGIC):
        return _read_16_bits(data, read_header(data, declared))
    if "rvl" not in declared.lower():
        raise UserError(
            f"depth of format {declared!r} is not supported; supported: compressedDepth with PNG or RVL: {OTHER_TOPIC}"
        )
    if len(data) < RVL_SIZE.size:
        raise cut_in_header(data)
    width, height = RVL_SIZE.unpack_from(data)
    check_size(height, width)
    return decode_rvl(data[RVL_SIZE.size :], height * width).reshape(height, width)


def _check_encoding(rules: ImageRules, what: str, possible: tuple[str, ...]) -> None:
    if rules.encoding not in (None, *possible):
        raise UserError(
            f"data.encodings={{{rules.camera}: {rules.encoding}}} cannot describe {what}; expected one of "
            f"{', '.join(possible)}, or nothing"
        )
