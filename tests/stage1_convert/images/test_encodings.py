"""What a camera really sends: an override of the message's word, Bayer in files, nv12, WebP, gray of 16 bits."""

import itertools
import struct
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.config import Config, Encoding
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.raw import SUPPORTED
from tests.stage1_convert.recording import START_NS, Image, compressed_image, draw, jpeg, raw_image


def pixels_of(message: Any, encoding: Encoding | None = None, mono16: tuple[int, int] = (0, 65535)) -> Image:
    found = read(message, encoding, mono16).pixels
    assert found is not None
    return found


def read(message: Any, encoding: Encoding | None = None, mono16: tuple[int, int] = (0, 65535)) -> CameraImage:
    return read_image(message, ImageRules("color", encoding, (0.0, 4.0), mono16))


def png(image: npt.NDArray[Any]) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr)[1].tobytes()


def mosaic(first: str, color: tuple[int, int, int] = (200, 10, 60), dtype: str = "u1") -> npt.NDArray[Any]:
    """Return a Bayer mosaic (12, 16) of one color."""
    value = dict(zip("rgb", color, strict=True))
    tile = np.array([value[letter] for letter in first], dtype).reshape(2, 2)
    return np.tile(tile, (6, 8))


def test_the_settings_know_every_encoding() -> None:
    assert set(get_args(Encoding)) == set(SUPPORTED)


# The override, for raw images


@pytest.mark.parametrize("word", ["8UC3", "rgb8", "", "BGR"])
def test_a_raw_image_is_what_the_override_says(word: str) -> None:
    message = raw_image(START_NS, np.ascontiguousarray(draw(5)[..., ::-1]), word, padding=5)
    assert np.array_equal(pixels_of(message, "bgr8"), draw(5))


def test_channels_that_have_no_name_are_refused_with_the_setting() -> None:
    with pytest.raises(UserError, match=r"'8UC3' does not name its .*data.encodings={color: bgr8}"):
        read(raw_image(START_NS, draw(5), "8UC3"))
    with pytest.raises(UserError, match=r"'64FC3' is not supported; .*nv12.* data.encodings={color: ENCODING}"):
        read(raw_image(START_NS, draw(5), "64FC3"))


def test_yuyv_that_is_called_yuv422() -> None:
    luma, u, v = 81, 90, 240  # red by ITU-R BT.601 in video range
    message = raw_image(START_NS, np.tile(np.array([luma, u, luma, v], np.uint8), (4, 4))[..., None], "yuv422")
    message.width = 8
    assert np.abs(pixels_of(message, "yuyv").astype(int) - (254, 0, 0)).max() <= 2
    assert np.abs(pixels_of(message).astype(int) - (254, 0, 0)).max() > 50


def test_an_override_that_does_not_fit_the_bytes_is_refused_with_the_setting() -> None:
    with pytest.raises(UserError, match=r"48x64 nv12 .* does not fit its 9216 bytes: .*data.encodings={color"):
        read(raw_image(START_NS, draw(5)), "nv12")


@pytest.mark.parametrize("step", [0, 192])
def test_a_step_of_zero_means_rows_without_padding(step: int) -> None:
    message = raw_image(START_NS, draw(5))
    message.step = step
    assert np.array_equal(pixels_of(message), draw(5))
    message.data = message.data[:-1]
    with pytest.raises(UserError, match="does not fit"):
        read(message)


# The override, for compressed images


@pytest.mark.parametrize(
    ("form", "encoding", "is_swapped"),
    [
        ("jpeg", None, False),
        ("jpeg", "rgb8", False),
        ("jpeg", "bgr8", True),
        ("rgb8; jpeg compressed bgr8", None, False),
        ("rgb8; jpeg compressed bgr8", "bgr8", True),
        ("bgr8; jpeg compressed bgr8", None, False),
        ("bgr8; jpeg compressed bgr8", "bgr8", False),
        ("bgr8; jpeg compressed bgr8", "rgb8", True),
        ("8UC3; jpeg compressed ", "bgr8", False),
        ("8UC3; jpeg compressed ", "rgb8", True),
    ],
)
def test_red_and_blue_change_places_where_the_override_contradicts_the_file(
    form: str, encoding: Encoding | None, is_swapped: bool
) -> None:
    data = jpeg(draw(5))
    recorded = pixels_of(compressed_image(START_NS, data))
    message = compressed_image(START_NS, data, form)
    assert np.array_equal(pixels_of(message, encoding), recorded[..., ::-1] if is_swapped else recorded)
    found = read_image(message, ImageRules("color", encoding), lazy=True)
    assert (found.file == data) == (found.pixels is None) == (not is_swapped)


def test_a_png_with_swapped_channels() -> None:
    message = compressed_image(START_NS, png(np.ascontiguousarray(draw(5)[..., ::-1])), "png")
    assert np.array_equal(pixels_of(message, "bgr8"), draw(5))


@pytest.mark.parametrize("encoding", ["nv12", "yuyv", "16UC1"])
def test_an_override_that_no_file_can_be_is_refused(encoding: Encoding) -> None:
    with pytest.raises(
        UserError, match=rf"data.encodings={{color: {encoding}}} cannot .*JPEG file.*expected one of rgb8"
    ):
        read(compressed_image(START_NS, jpeg(draw(5))), encoding)


def test_an_override_that_repeats_the_word_of_the_image_before_it_was_compressed_changes_nothing() -> None:
    message = compressed_image(START_NS, jpeg(draw(5)), "yuv422; jpeg compressed bgr8")
    assert np.array_equal(pixels_of(message, "yuv422"), pixels_of(message))


# Bayer in files


@pytest.mark.parametrize("first", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_mosaic_in_a_png_gives_its_color_exactly(first: str) -> None:
    found = read(compressed_image(START_NS, png(mosaic(first)), f"bayer_{first}8; png compressed "))
    assert found.pixels is not None
    assert np.array_equal(found.pixels, np.broadcast_to((200, 10, 60), (12, 16, 3)))
    assert (found.file, found.kind) == (None, f"Bayer mosaic {first.upper()}")


def test_the_pixels_of_a_bayer_png_keep_the_colors_that_were_measured_and_average_the_others() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)
    pixels = pixels_of(compressed_image(START_NS, png(plane), "bayer_rggb8; png compressed ")).astype(int)
    measured = [[0, 1], [1, 2]]  # the channel at even and odd rows and columns of RGGB
    for row, column in itertools.product(range(2, 10), range(2, 14)):
        assert pixels[row, column, measured[row % 2][column % 2]] == plane[row, column]
    four = plane[3, 4].astype(int) + plane[5, 4] + plane[4, 3] + plane[4, 5]  # the greens around a red pixel
    assert pixels[4, 4, 1] == (four + 2) // 4


def test_a_bayer_mosaic_in_a_jpeg_gives_its_color() -> None:
    data = cv2.imencode(".jpg", mosaic("rggb"), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    pixels = pixels_of(compressed_image(START_NS, data, "bayer_rggb8; jpeg compressed "))
    assert np.abs(pixels.astype(int) - (200, 10, 60)).max() <= 6


def test_a_mosaic_that_was_turned_into_colors_before_it_was_compressed_stays_as_it_is() -> None:
    message = compressed_image(START_NS, jpeg(draw(5)), "bayer_rggb8; jpeg compressed bgr8")
    assert read(message).file == jpeg(draw(5))


@pytest.mark.parametrize("form", ["png", "mono8; png compressed ", "bayer_bggr8; png compressed "])
def test_the_override_says_which_mosaic_a_file_holds(form: str) -> None:
    assert np.array_equal(
        pixels_of(compressed_image(START_NS, png(mosaic("grbg")), form), "bayer_grbg8"),
        np.broadcast_to((200, 10, 60), (12, 16, 3)),
    )


@pytest.mark.parametrize("word", ["bayer_rggb16", "bayer_rggb8"])
def test_a_mosaic_of_16_bits_in_a_png_is_scaled_by_its_range_and_is_no_depth(word: str) -> None:
    plane = mosaic("rggb", (4095, 0, 2048), "u2")
    message = compressed_image(START_NS, png(plane), f"{word}; png compressed ")
    assert np.array_equal(pixels_of(message, mono16=(0, 4095)), np.broadcast_to((255, 0, 128), (12, 16, 3)))


# nv12, nv21

COLORS = {"red": (200, 10, 20), "green": (10, 200, 30), "blue": (20, 30, 200), "white": (255, 255, 255)}


def yuv(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return Y, U, V of a color in video range (ITU-R BT.601)."""
    r, g, b = (channel / 255 for channel in color)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return round(16 + 219 * luma), round(128 + 224 * (b - luma) / 1.772), round(128 + 224 * (r - luma) / 1.402)


def semi_planar(encoding: str, stride: int, width: int = 8, height: int = 4) -> Any:
    """Return an image whose left half is red and whose right half is blue, with noise behind its rows."""
    (y1, u1, v1), (y2, u2, v2) = yuv(COLORS["red"]), yuv(COLORS["blue"])
    planes = np.full((height * 3 // 2, stride), 77, np.uint8)
    planes[:height, :width] = [y1] * (width // 2) + [y2] * (width // 2)
    first, second = ((u1, v1), (u2, v2)) if encoding == "nv12" else ((v1, u1), (v2, u2))
    planes[height:, :width] = [*first] * (width // 4) + [*second] * (width // 4)
    message = raw_image(START_NS, planes[..., None], encoding)
    message.height, message.width, message.step = height, width, stride
    return message


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize(("stride", "step"), [(8, 8), (8, 0), (8, 12), (16, 16), (12, 12)])
def test_nv12_and_nv21_give_their_colors_however_their_rows_are_counted(encoding: str, stride: int, step: int) -> None:
    message = semi_planar(encoding, stride)
    message.step = step
    pixels = pixels_of(message).astype(int)
    assert pixels.shape == (4, 8, 3)
    assert np.abs(pixels[:, :4] - COLORS["red"]).max() <= 3
    assert np.abs(pixels[:, 4:] - COLORS["blue"]).max() <= 3


@pytest.mark.parametrize("color", COLORS)
def test_nv12_follows_the_formula_of_bt_601(color: str) -> None:
    y, u, v = yuv(COLORS[color])
    planes = np.concatenate([np.full((4, 4), y), np.tile([u, v], (2, 2))]).astype(np.uint8)
    message = raw_image(START_NS, planes[..., None], "nv12")
    message.height, message.width = 4, 4
    c, d, e = 1.164 * (y - 16), u - 128, v - 128
    expected = np.clip([c + 1.596 * e, c - 0.391 * d - 0.813 * e, c + 2.018 * d], 0, 255)
    assert np.abs(pixels_of(message) - expected).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "step"), [(4, 8, 7), (5, 8, 8), (4, 8, 24), (0, 8, 8), (1 << 31, 8, 0), (4, 1 << 31, 0)]
)
def test_nv12_that_does_not_fit_its_bytes_is_refused(height: int, width: int, step: int) -> None:
    message = semi_planar("nv12", 8)
    message.height, message.width, message.step = height, width, step
    with pytest.raises(UserError, match="does not fit its 48 bytes"):
        read(message)


# WebP


def webp(image: npt.NDArray[Any], quality: int) -> bytes:
    return cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])[
        1
    ].tobytes()


def extended(data: bytes, flags: int = 0, claimed: tuple[int, int] = (64, 48)) -> bytes:
    """Return a WebP with the header that files with metadata have."""
    sides = b"".join(struct.pack("<I", side - 1)[:3] for side in claimed)
    chunk = b"VP8X" + struct.pack("<IB3x", 10, flags) + sides
    return b"RIFF" + struct.pack("<I", len(data) - 8 + len(chunk)) + b"WEBP" + chunk + data[12:]


def test_webp_without_loss_gives_its_pixels_exactly() -> None:
    data = webp(draw(5), 101)
    for file in (data, extended(data)):
        found = read(compressed_image(START_NS, file, "webp"))
        assert found.pixels is not None
        assert np.array_equal(found.pixels, draw(5))
        assert found.file is None
    assert np.array_equal(pixels_of(compressed_image(START_NS, data, "webp"), "bgr8"), draw(5)[..., ::-1])


def test_webp_with_loss_gives_its_pixels_nearly() -> None:
    found = pixels_of(compressed_image(START_NS, webp(draw(5), 95), "rgb8; webp compressed bgr8"))
    assert np.abs(found.astype(int) - draw(5)).mean() < 8


@pytest.mark.parametrize("quality", [90, 101])
def test_a_webp_that_is_cut_off_huge_or_animated_is_refused(quality: int) -> None:
    data = webp(draw(5), quality)
    shorter = data[:4] + struct.pack("<I", len(data) // 2 - 8) + data[8 : len(data) // 2]
    for file, words in (
        (data[:-20], "is cut off"),
        (data[:22], "cut off in its header"),
        (shorter, "does not decode"),
        (extended(data, claimed=(1 << 14, 1 << 14)), "is refused; the limit"),
        (extended(data, flags=2), "animated WebP"),
        (data[:12] + b"ICCP" + data[16:], "no image header"),
    ):
        with pytest.raises(UserError, match=words):
            read(compressed_image(START_NS, file, "webp"))


# Gray of 16 bits

GRAY = np.array([[0, 1000, 2000], [3000, 4095, 65535]])


@pytest.mark.parametrize("order", ["<", ">"])
def test_mono16_is_scaled_over_its_whole_range(order: str) -> None:
    rows = GRAY.astype(f"{order}u2").view(np.uint8).reshape(2, 6)
    message = raw_image(START_NS, rows[..., None], "mono16", padding=2)
    message.width, message.is_bigendian = 3, int(order == ">")
    found = read(message)
    assert found.pixels is not None
    assert found.pixels[..., 0].tolist() == [[0, 4, 8], [12, 16, 255]]  # v * 255 / 65535
    assert (found.measured, found.kind) == ((0, 65535, 0.0), "gray of 16 bits")


def test_mono16_is_scaled_by_the_range_of_its_camera() -> None:
    message = compressed_image(START_NS, png(GRAY.astype(np.uint16)), "mono16; png compressed ")
    found = read(message, mono16=(1000, 3000))
    assert found.pixels is not None
    assert found.pixels[..., 0].tolist() == [[0, 0, 128], [255, 255, 255]]
    assert found.measured == (0, 65535, 3 / 6)


@pytest.mark.parametrize("form", ["16UC1; png compressed ", "png"])
def test_a_png_of_16_bits_without_the_word_mono16_is_depth(form: str) -> None:
    message = compressed_image(START_NS, png(GRAY.astype(np.uint16)), form)
    found = read(message)
    assert found.pixels is not None
    assert found.pixels[..., 0].tolist() == [[0, 64, 128], [191, 255, 255]]  # v * 255 / 4000
    assert found.measured == (1000, 65535, 2 / 5)
    assert pixels_of(message, "mono16")[..., 0].tolist() == [[0, 4, 8], [12, 16, 255]]


def test_compressed_depth_stays_depth_whatever_its_word() -> None:
    message = compressed_image(START_NS, bytes(12) + png(GRAY.astype(np.uint16)), "mono16; compressedDepth png")
    assert pixels_of(message)[..., 0].tolist() == [[0, 64, 128], [191, 255, 255]]
    with pytest.raises(UserError, match="cannot describe compressedDepth; expected one of 16UC1, 32FC1"):
        read(message, "rgb8")


# The settings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.encodings={side: bgr8}", "data.encodings.side: no such camera; there are color"),
        ("data.encodings={color: rgb9}", "data.encodings.color"),
        ("data.mono16_range={side: [0, 1]}", "data.mono16_range.side: no such camera; there are color"),
        ("data.mono16_range={color: [5, 5]}", r"data.mono16_range.color=\[5, 5\]: expected \[low, high\]"),
        ("data.mono16_range={color: [5]}", r"expected \[low, high\]"),
        ("data.mono16_range={color: [0, 65536]}", "data.mono16_range.color"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(Config, None, [setting])


def test_the_rules_of_a_camera_are_its_own() -> None:
    settings = ["data.cameras={a: /a, b: /b}", "data.encodings={a: bgr8}", "data.mono16_range={b: [5, 9]}"]
    data = load(Config, None, settings).data
    assert ImageRules.of("a", data) == ImageRules("a", "bgr8", (0.0, 4.0), (0, 65535))
    assert ImageRules.of("b", data) == ImageRules("b", None, (0.0, 4.0), (5, 9))


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("h264", b"\0\0\0\1abcdefghijklmnop"),
        ("16UC1; compressedDepth zstd", bytes(40)),
        ("16UC1; compressedDepth png", bytes(12) + png(draw(5))),
        ("rgb16; png compressed ", png(draw(5).astype(np.uint16))),
        ("png", png(np.zeros((4097, 4096), np.uint8))),
    ],
)
def test_what_cannot_be_read_names_where_to_choose_another_topic(form: str, data: bytes) -> None:
    with pytest.raises(
        UserError, match=r": name another topic of this camera in data.cameras, or leave the camera out$"
    ):
        read(compressed_image(START_NS, data, form))


@pytest.mark.parametrize(("near_m", "clipped"), [(0.0, 2), (0.001, 2), (1.001, 3), (3.5, 5)])
def test_pixels_nearer_or_farther_than_the_range_are_counted_and_those_not_measured_are_not(
    near_m: float, clipped: int
) -> None:
    rows = np.array([[0, 0, 1000, 2000], [3000, 4000, 4001, 65535]], "<u2").view(np.uint8)
    message = raw_image(START_NS, rows[..., None], "16UC1")
    message.width = 4
    assert read_image(message, ImageRules("color", None, (near_m, 4.0))).measured == (1000, 65535, clipped / 6)
