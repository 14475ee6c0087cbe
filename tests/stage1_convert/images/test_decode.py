"""Every kind of image becomes the right pixels, or one clear line before it takes memory."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.align.streams import BagStreams, read_streams
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.message_types import FFMPEG, FOREIGN, FOXGLOVE
from stage1_convert.config import Config
from stage1_convert.images.decode import ENCODINGS, CameraImage, read_image
from stage1_convert.images.video_topic import starts_video
from stage1_convert.pipeline.camera import read_images
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINT_TOPIC,
    JPEG_TOPIC,
    MS,
    RAW_TOPIC,
    START_NS,
    Image,
    cell,
    compressed_image,
    draw,
    header,
    joint_state,
    jpeg,
    number_in,
    raw_image,
)

COLORS = {"red": (200, 10, 20), "green": (10, 200, 30), "blue": (20, 30, 200)}
NEAR_M, FAR_M = 0.5, 2.5


def pixels_of(message: Any, depth_range_m: tuple[float, float] = (NEAR_M, FAR_M)) -> Image:
    pixels = read_image(message, depth_range_m).pixels
    assert pixels is not None
    return pixels


def image(encoding: str, rows: npt.NDArray[Any], padding: int = 0) -> Any:
    """Return an Image of these rows (height, numbers a row) with noise behind each of them, in their own byte order."""
    big = rows.dtype.byteorder == ">"
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    message = raw_image(START_NS, raw[..., None], encoding, padding)
    _, channels, _ = ENCODINGS[encoding]
    message.width = rows.shape[1] // channels
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
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_depth_in_millimeters_becomes_gray_by_the_fixed_range(encoding: str, order: str) -> None:
    pixels = pixels_of(image(encoding, (DEPTH_M * 1000).astype(f"{order}u2"), 2))
    assert np.array_equal(pixels, np.repeat(GRAY[..., None], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_in_metres_becomes_gray_and_what_was_not_measured_is_zero(order: str) -> None:
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


def test_compressed_depth_of_metres_is_undone_from_its_inverse() -> None:
    a, b = 300.0, 2.0  # as compressed_depth_image_transport derives them from its quantization parameters
    known = DEPTH_M > 0
    quantized = np.where(known, a / np.where(known, DEPTH_M, 1) + b, 0).astype(np.uint16)
    message = compressed_image(START_NS, struct.pack("<iff", 0, a, b) + png(quantized), "32FC1; compressedDepth png")
    assert np.abs(pixels_of(message)[..., 0].astype(int) - GRAY).max() <= 2


def test_compressed_depth_of_another_kind_is_refused() -> None:
    message = compressed_image(START_NS, struct.pack("<iff", 0, 0, 0) + b"RVL", "16UC1; compressedDepth rvl")
    with pytest.raises(UserError, match="'16UC1; compressedDepth rvl' is not supported"):
        read_image(message)


def test_a_color_file_is_handed_on_as_it_is_and_a_gray_one_is_not() -> None:
    data = jpeg(draw(3))
    still = read_image(compressed_image(START_NS, data))
    assert (still.file, still.file_format, still.height, still.width) == (data, "jpeg", 48, 64)
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


def test_a_trusted_jpeg_is_not_decoded_but_its_end_and_size_are_looked_at() -> None:
    data = jpeg(draw(3))
    broken_inside = data[:600] + bytes(20) + data[620:]
    assert read_image(compressed_image(START_NS, broken_inside), trust=True) == CameraImage(
        48, 64, None, broken_inside, "jpeg"
    )
    with pytest.raises(UserError, match="cut off"):
        read_image(compressed_image(START_NS, data[:-40]), trust=True)
    assert read_image(compressed_image(START_NS, png(draw(3)), "png"), trust=True).pixels is not None


def packets(codec: str, count: int, b_frames: int = 0, gop: int = 10) -> list[tuple[int, bool, bytes]]:
    """Encode numbered images; return (number of the image, key frame, packet) in the order of the stream."""
    import av

    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 128, 96, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), 30
    encoder.gop_size, encoder.max_b_frames, encoder.thread_count = gop, b_frames, 1
    quiet = {"x265-params": "log-level=none:pools=none:frame-threads=1"} if codec == "libx265" else {}
    encoder.options = {"preset": "ultrafast" if not b_frames else "medium", "crf": "10", **quiet}
    found = []
    for number in [*range(count), None]:
        frame = None
        if number is not None:
            frame = av.VideoFrame.from_ndarray(draw(number, 96, 128), format="rgb24")
            frame.pts = number
        found += [(int(packet.pts), bool(packet.is_keyframe), bytes(packet)) for packet in encoder.encode(frame)]
    return found


def video_message(types: Any, msgtype: str, codec: str, stamp_ns: int, key: bool, data: bytes) -> Any:
    array = np.frombuffer(data, np.uint8)
    if msgtype == FFMPEG:
        return types.types[msgtype](header(stamp_ns), 128, 96, codec, stamp_ns, int(key), False, array)
    return types.types[msgtype](header(stamp_ns).stamp, "cam", array, "h264" if "264" in codec else "h265")


def video_bag(
    path: Path, msgtype: str, codec: str, stream: list[tuple[int, bool, bytes]], defined: bool = True
) -> Path:
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(FOREIGN[msgtype], msgtype))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if defined else StoragePlugin.SQLITE3) as writer:
        joints = writer.add_connection(JOINT_TOPIC, JOINT_STATE, typestore=types)
        camera = writer.add_connection(RAW_TOPIC, msgtype, typestore=types)
        writer.write(joints, START_NS, types.serialize_cdr(joint_state(START_NS, ["a"], [0.0]), JOINT_STATE))
        for at, (_, key, data) in enumerate(stream):
            stamp_ns = START_NS + at * 33 * MS
            message = video_message(types, msgtype, codec, stamp_ns, key, data)
            writer.write(camera, stamp_ns, types.serialize_cdr(message, msgtype))
    if not defined:
        import sqlite3

        with sqlite3.connect(path / f"{path.name}.db3") as database:
            database.execute("DELETE FROM message_definitions")
    return path


def shown(bag: Bag, tape: BagStreams, every: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (sample, number drawn into the image)."""
    marks = np.arange(len(tape.streams["color"].numbers)) % every == 0
    for camera, sample, still in read_images(bag, tape, {"color": marks}, (0, 4)):
        assert camera == "color"
        assert still.pixels is not None
        yield sample, number_in(still.pixels)


@pytest.mark.parametrize(
    ("msgtype", "codec"), [(FFMPEG, "libx264"), (FFMPEG, "libx265"), (FOXGLOVE, "libx264"), (FOXGLOVE, "libx265")]
)
def test_every_packet_of_a_video_gives_its_own_image(tmp_path: Path, msgtype: str, codec: str) -> None:
    stream = packets(codec, 25)
    config = load(Config, None, ["conventions.joint_order=[a]"])
    path = video_bag(tmp_path / "bag", msgtype, codec, stream, defined=codec == "libx264")
    with open_bag(path, tmp_path, "humble") as bag:
        tape = read_streams(bag, config, starts_video)
        assert list(shown(bag, tape)) == [(at, at) for at in range(25)]
        assert list(shown(bag, tape, 4)) == [(at, at) for at in range(0, 25, 4)]
        assert tape.streams["color"].clock.source == "header"
        assert not bag.warnings


def test_images_that_were_sent_out_of_order_go_with_their_own_packets(tmp_path: Path) -> None:
    stream = packets("libx264", 25, b_frames=2)
    order = [number for number, _, _ in stream]
    assert order != sorted(order)
    with open_bag(video_bag(tmp_path / "bag", FOXGLOVE, "libx264", stream), tmp_path, "humble") as bag:
        tape = read_streams(bag, load(Config, None, ["conventions.joint_order=[a]"]), starts_video)
        assert list(shown(bag, tape)) == list(enumerate(order))


@pytest.mark.parametrize("msgtype", [FFMPEG, FOXGLOVE])
def test_packets_before_the_first_key_frame_carry_no_image_and_that_is_told(tmp_path: Path, msgtype: str) -> None:
    stream = packets("libx264", 25)[4:]  # the recorder was started in the middle; the next key frame is the tenth
    with open_bag(video_bag(tmp_path / "bag", msgtype, "libx264", stream), tmp_path, "humble") as bag:
        tape = read_streams(bag, load(Config, None, ["conventions.joint_order=[a]"]), starts_video)
        assert list(shown(bag, tape)) == [(at, at + 10) for at in range(15)]
        assert tape.streams["color"].numbers.tolist() == list(range(6, 21))
        assert tape.streams["color"].read == 21
        assert bag.warnings == [f"topic {RAW_TOPIC}: 6 packets before the first key frame carry no image"]


def test_a_damaged_packet_is_refused_with_its_number(tmp_path: Path) -> None:
    stream = packets("libx264", 12)
    stream[5] = (5, False, stream[5][2][:20] + bytes(40))
    with open_bag(video_bag(tmp_path / "bag", FFMPEG, "libx264", stream), tmp_path, "humble") as bag:
        tape = read_streams(bag, load(Config, None, ["conventions.joint_order=[a]"]), starts_video)
        with pytest.raises(UserError, match=f"camera color, message 5 stamped {START_NS + 5 * 33 * MS} ns: the packet"):
            list(shown(bag, tape))


def test_only_the_images_that_frames_need_are_decoded(tmp_path: Path) -> None:
    recording = cell()
    said = recording.images[7]
    recording.images[7] = said._replace(message=compressed_image(START_NS, b"junk"))
    with open_bag(recording.write(tmp_path / "bag"), tmp_path, "humble") as bag:
        tape = read_streams(bag, load(Config, None, ["data.time_source=receive"]), starts_video)
        assert list(shown(bag, tape, 2)) == [(at, at) for at in range(0, 45, 2)]
        with pytest.raises(
            UserError, match=f"camera color, message 7 stamped {said.receive_ns} ns: the image is neither"
        ):
            list(shown(bag, tape, 7))


def test_trusted_images_are_not_decoded(tmp_path: Path) -> None:
    with open_bag(cell().write(tmp_path / "bag"), tmp_path, "humble") as bag:
        tape = read_streams(bag, load(Config, None, []), starts_video)
        marks = {"color": np.ones(45, np.bool_)}
        stills = [still for _, _, still in read_images(bag, tape, marks, (0, 4), trust=True)]
    assert len(stills) == 45
    assert all(still.file and still.pixels is None for still in stills)
    assert tape.streams["color"].topic == JPEG_TOPIC
