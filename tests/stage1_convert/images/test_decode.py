"""Every kind of image gives the right pixels, or one line of refusal before it takes memory."""

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from common.cli.command import UserError
from stage1_convert.config import Encoding
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.raw import LAYOUTS
from tests.stage1_convert.recording import (
    START_NS,
    Image,
    compressed_image,
    draw,
    jpeg,
    raw_image,
)

COLORS = {"red": (200, 10, 20), "green": (10, 200, 30), "blue": (20, 30, 200)}
NEAR_M, FAR_M = 0.5, 2.5


def pixels_of(message: Any, encoding: Encoding | None = None) -> Image:
    pixels = read_image(message, ImageRules("color", encoding, (NEAR_M, FAR_M))).pixels
    assert pixels is not None
    return pixels


def image(encoding: str, rows: npt.NDArray[Any], padding: int = 0) -> Any:
    """Return an Image of these rows (height, numbers a row) with noise behind each of them, in their own byte order."""
    big = rows.dtype.byteorder == ">"
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    message = raw_image(START_NS, raw[..., None], encoding, padding)
    message.width = rows.shape[1] // LAYOUTS[encoding].channels  # type: ignore[index]
    message.is_bigendian = int(big)
    return message


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_plain_encodings_give_their_pixels_whatever_the_row_step(encoding: str, padding: int) -> None:
    expected = draw(11)
    order = {"r": 0, "g": 1, "b": 2}
    channels = [expected[..., order[letter]] if letter in order else np.full((48, 64), 77) for letter in encoding[:-1]]
    if encoding == "mono8":
        channels, expected = [expected[..., 0]], np.repeat(expected[..., :1], 3, axis=2)
    rows = np.stack(channels, axis=-1).astype(np.uint8).reshape(48, -1)
    assert np.array_equal(pixels_of(image(encoding, rows, padding)), expected)


@pytest.mark.parametrize("first", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("color", COLORS)
def test_a_bayer_mosaic_gives_its_color(first: str, color: str) -> None:
    value = dict(zip("rgb", COLORS[color], strict=True))
    tile = np.array([value[letter] for letter in first], np.uint8).reshape(2, 2)
    pixels = pixels_of(image(f"bayer_{first}8", np.tile(tile, (12, 16)), 3))
    assert pixels.shape == (24, 32, 3)
    assert np.array_equal(pixels, np.broadcast_to(COLORS[color], pixels.shape))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
@pytest.mark.parametrize("color", COLORS)
def test_yuv_images_give_their_color_in_video_range(encoding: str, order: str, color: str) -> None:
    r, g, b = (channel / 255 for channel in COLORS[color])
    luma = 0.299 * r + 0.587 * g + 0.114 * b  # ITU-R BT.601
    value = {"y": 16 + 219 * luma, "u": 128 + 224 * (b - luma) / 1.772, "v": 128 + 224 * (r - luma) / 1.402}
    rows = np.tile(np.array([round(value[letter]) for letter in order], np.uint8), (10, 8))
    pixels = pixels_of(image(encoding, rows, 5)).astype(int)
    assert pixels.shape == (10, 16, 3)
    assert np.abs(pixels - COLORS[color]).max() <= 3


DEPTH_M = np.array([[0.0, 0.5, 1.0, 1.5], [2.0, 2.5, 9.0, 0.1]])
GRAY = np.array([[0, 0, 64, 128], [191, 255, 255, 0]])


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_in_millimeters_becomes_gray_by_the_fixed_range(order: str) -> None:
    pixels = pixels_of(image("16UC1", (DEPTH_M * 1000).astype(f"{order}u2"), 2))
    assert np.array_equal(pixels, np.repeat(GRAY[..., None], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_in_meters_becomes_gray_and_what_was_not_measured_is_zero(order: str) -> None:
    depth = DEPTH_M.copy()
    depth[0, :2], depth[1, 2] = (np.nan, -np.inf), np.inf
    pixels = pixels_of(image("32FC1", depth.astype(f"{order}f4"), 8))
    assert np.array_equal(pixels[..., 0], np.array([[0, 0, 64, 128], [191, 255, 255, 0]]))


def test_the_same_distance_looks_the_same_in_every_frame() -> None:
    near, far = (image("16UC1", np.array([[1000, other]], np.uint16)) for other in (600, 2400))
    assert pixels_of(near)[0, 0].tolist() == pixels_of(far)[0, 0].tolist()


def png(image: npt.NDArray[Any]) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr)[1].tobytes()


def test_a_depth_png_is_read_with_all_its_16_bits() -> None:
    message = compressed_image(START_NS, png((DEPTH_M * 1000).astype(np.uint16)), "16UC1; png compressed ")
    assert np.array_equal(pixels_of(message)[..., 0], GRAY)


def test_compressed_depth_in_millimeters() -> None:
    data = struct.pack("<iff", 0, 0, 0) + png((DEPTH_M * 1000).astype(np.uint16))
    message = compressed_image(START_NS, data, "16UC1; compressedDepth png")
    assert np.array_equal(pixels_of(message)[..., 0], GRAY)


def test_compressed_depth_in_meters_is_computed_from_its_inverse() -> None:
    a, b = 300.0, 2.0  # as compressed_depth_image_transport derives them from its quantization parameters
    known = DEPTH_M > 0
    quantized = np.where(known, a / np.where(known, DEPTH_M, 1) + b, 0).astype(np.uint16)
    message = compressed_image(START_NS, struct.pack("<iff", 0, a, b) + png(quantized), "32FC1; compressedDepth png")
    assert np.abs(pixels_of(message)[..., 0].astype(int) - GRAY).max() <= 2


def test_compressed_depth_of_another_kind_is_refused() -> None:
    message = compressed_image(START_NS, struct.pack("<iff", 0, 0, 0) + b"ZSTD", "16UC1; compressedDepth zstd")
    with pytest.raises(UserError, match=r"'16UC1; compressedDepth zstd' is not supported; supported: .* PNG or RVL"):
        read_image(message)


def test_a_color_file_is_kept_as_it_is_and_a_gray_one_is_not() -> None:
    data = jpeg(draw(3))
    found = read_image(compressed_image(START_NS, data))
    assert (found.file, found.file_format, found.height, found.width) == (data, "jpeg", 48, 64)
    assert read_image(compressed_image(START_NS, png(draw(3)), "png")).file_format == "png"
    gray = cv2.imencode(".jpg", draw(3)[..., 0])[1].tobytes()
    assert read_image(compressed_image(START_NS, gray)).file is None


def test_a_camera_held_sideways_gives_rows_as_they_are_stored() -> None:
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn by 90 degrees
    )
    data = jpeg(draw(3))
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert np.array_equal(pixels_of(compressed_image(START_NS, turned)), pixels_of(compressed_image(START_NS, data)))


def test_of_a_trusted_jpeg_only_the_end_and_the_size_are_checked() -> None:
    data = jpeg(draw(3))
    broken_inside = data[:600] + bytes(20) + data[620:]
    assert read_image(compressed_image(START_NS, broken_inside), lazy=True) == CameraImage(
        48, 64, None, "color", broken_inside, "jpeg"
    )
    with pytest.raises(UserError, match="cut off"):
        read_image(compressed_image(START_NS, data[:-40]), lazy=True)
    assert read_image(compressed_image(START_NS, png(draw(3)), "png"), lazy=True).pixels is not None
