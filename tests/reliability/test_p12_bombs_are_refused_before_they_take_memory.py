"""Images, compressed data and messages that claim or unpack to far more than they are, are refused before they take memory.

No refusal lets the process grow by more than 100 MB. Such an image is left out and counted, such a bag is refused, and the
bags beside it are converted.
"""

import functools
import sqlite3
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import zstandard
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from common.cli.command import UserError
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.mcap import CHUNK, DATA_END
from stage1_convert.bags.message_types import FFMPEG, FOREIGN
from stage1_convert.images.decode import read_image
from stage1_convert.images.video_topic import VideoStream
from stage1_convert.streams.joint_fields import joint_state_reader
from tests.stage1_convert.conversion import report, run, sources_of
from tests.stage1_convert.images.video import video_message
from tests.stage1_convert.memory import at_most
from tests.stage1_convert.recording import (
    IMAGE,
    JOINT_STATE,
    JOINT_TOPIC,
    JPEG_TOPIC,
    RAW_TOPIC,
    START_NS,
    TYPES,
    cell,
    compressed_image,
    draw,
    joint_state,
    jpeg,
    raw_image,
)

MOST_BYTES = 100 << 20
MOST = 2**32 - 1
DEPTH_HEAD = struct.pack("<iff", 0, 0, 0)


def png_that_claims(image: npt.NDArray[Any], side: int) -> bytes:
    """Return a PNG whose header says another size."""
    data = cv2.imencode(".png", image)[1].tobytes()
    return data[:16] + struct.pack(">II", side, side) + data[24:]


def with_frame_header(data: bytes, height: int, width: int) -> bytes:
    """Return a JPEG that claims another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def raw(**claims: int) -> Any:
    message = raw_image(START_NS, draw(0))
    for name, value in claims.items():
        setattr(message, name, value)
    return message


IMAGES: dict[str, Callable[[], Any]] = {
    "a PNG of 144 million pixels": lambda: compressed_image(START_NS, png_that_claims(draw(0), 12_000), "png"),
    "a depth PNG of as many": lambda: compressed_image(
        START_NS, DEPTH_HEAD + png_that_claims(np.zeros((4, 4), np.uint16), 12_000), "16UC1; compressedDepth png"
    ),
    "a JPEG that claims four billion": lambda: compressed_image(
        START_NS, with_frame_header(jpeg(draw(0)), 65_000, 65_000)
    ),
    "rows without end": lambda: raw(height=MOST, width=MOST, step=MOST),
    "a height without data": lambda: raw(height=4_000_000_000),
    "a step of nothing": lambda: raw(step=0, height=MOST),
    "a size that is nothing in 32 bits": lambda: raw(height=1 << 16, width=1 << 14, step=1 << 16),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_claims_to_be_huge(kind: str) -> None:
    message = IMAGES[kind]()
    with pytest.raises(UserError, match=r"is refused; the limit|does not fit"), at_most(MOST_BYTES):
        read_image(message)


def test_a_video_whose_images_are_huge() -> None:
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 4096, 4112, "yuv420p", Fraction(1, 30)
    encoder.options, encoder.thread_count = {"preset": "ultrafast", "tune": "zerolatency"}, 1
    data = b"".join(bytes(packet) for packet in encoder.encode(av.VideoFrame(4096, 4112, "yuv420p")))
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(FOREIGN[FFMPEG], FFMPEG))
    message = video_message(types, FFMPEG, "libx264", START_NS, True, data)
    with at_most(MOST_BYTES):
        ((_, fault),) = VideoStream().add(0, message)
    assert isinstance(fault, UserError)
    assert "does not decode" in str(fault)


@functools.cache
def zstd_bomb(size: int, declare: bool = True) -> bytes:
    """Return a zstd frame of some KB that unpacks to `size` zero bytes, with or without saying so."""
    compressor = zstandard.ZstdCompressor(write_content_size=declare).compressobj(size if declare else -1)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, compressor.flush()])


def with_bomb(bag: Path, declare: bool = True) -> Path:
    """Replace the fifth message of an sqlite bag by a bomb."""
    with sqlite3.connect(bag / f"{bag.name}.db3") as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 5", [zstd_bomb(1 << 30, declare)])
    database.close()
    return bag


@pytest.mark.parametrize("declare", [True, False])
def test_a_compressed_message(tmp_path: Path, declare: bool) -> None:
    bag = with_bomb(cell(seconds=0.2).write(tmp_path / "bag", "sqlite3", "message"), declare)
    with at_most(MOST_BYTES), open_bag(bag, tmp_path, "humble") as opened:
        sizes = [len(record.data) for record in opened.records([JOINT_TOPIC, JPEG_TOPIC])]
    assert sizes.count(0) == 1
    assert len(sizes) == 26


@pytest.mark.parametrize("declare", [True, False])
def test_a_compressed_file_fills_no_disk_either(tmp_path: Path, declare: bool) -> None:
    (tmp_path / "bomb.db3.zstd").write_bytes(zstd_bomb(1 << 30, declare))
    with (
        pytest.raises(UserError, match=r"unpack|memory"),
        at_most(MOST_BYTES),
        open_bag(tmp_path / "bomb.db3.zstd", tmp_path, "humble"),
    ):
        pass
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100 << 20


def with_chunk(bag: Path, claimed: int, codec: bytes, packed: bytes) -> Path:
    """Put a chunk behind the last message of an .mcap file, and leave out its index."""
    data, at = bag.read_bytes(), 8
    while data[at] != DATA_END:
        at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
    record = struct.pack("<QQQI", START_NS, START_NS, claimed, 0) + struct.pack("<I", len(codec)) + codec
    record += struct.pack("<Q", len(packed)) + packed
    bag.write_bytes(data[:at] + struct.pack("<BQ", CHUNK, len(record)) + record)
    return bag


@pytest.mark.parametrize("claimed", [100, (1 << 64) - 1])
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_chunk(tmp_path: Path, codec: str, claimed: int) -> None:
    packed = zstd_bomb(1 << 30) if codec == "zstd" else pa.Codec("lz4").compress(bytes(80 << 20), asbytes=True)
    bag = with_chunk(cell(seconds=0.2).write(tmp_path / "bag") / "bag.mcap", claimed, codec.encode(), packed)
    with at_most(MOST_BYTES), open_bag(bag, tmp_path, "humble") as opened:
        assert len(list(opened.records([JOINT_TOPIC, JPEG_TOPIC]))) == 26
        assert any("is damaged" in warning and "unpack to" in warning for warning in opened.warnings)


@pytest.mark.parametrize("codec", ["bz2", "lz4"])
def test_a_ros_1_chunk(tmp_path: Path, codec: str) -> None:
    types, text = get_typestore(Stores.ROS1_NOETIC), "std_msgs/msg/String"
    writer = Rosbag1Writer(tmp_path / "bomb.bag")
    writer.set_compression(Rosbag1Writer.CompressionFormat[codec.upper()])
    with writer:
        connection = writer.add_connection("/bomb", text, typestore=types)
        writer.write(connection, START_NS, types.serialize_ros1(types.types[text]("x" * (80 << 20)), text))
    with (
        pytest.raises(UserError, match="to more than"),
        at_most(MOST_BYTES),
        open_bag(tmp_path / "bomb.bag", tmp_path, "humble") as bag,
    ):
        list(bag.records(["/bomb"]))


def claiming(msgtype: str, message: Any, length: int) -> bytes:
    """Return a message in which the only length of this value, of a text or an array, says four billion."""
    data, wanted = bytes(TYPES.serialize_cdr(message, msgtype)), struct.pack("<I", length)
    assert data.count(wanted) == 1
    return data.replace(wanted, struct.pack("<I", MOST))


def test_a_joint_state_that_claims_four_billion_names_angles_or_letters() -> None:
    names = [f"joint_{number}" + "x" * (20 if number else 0) for number in range(7)]
    whole = joint_state(START_NS, names, range(7))
    read = joint_state_reader(TYPES, tuple(names), ["position"])
    assert not read.read([bytes(TYPES.serialize_cdr(whole, JOINT_STATE))]).faults
    short = joint_state(START_NS, names[:6], range(9))
    for data in (
        claiming(JOINT_STATE, whole, 8),  # the letters of joint_0
        claiming(JOINT_STATE, short, 6),  # names
        claiming(JOINT_STATE, short, 9),  # angles
    ):
        with at_most(MOST_BYTES):
            assert "damaged" in read.read([data]).faults[0]


def test_an_image_that_claims_four_billion_bytes(tmp_path: Path) -> None:
    recording = cell(seconds=0.2, topic=RAW_TOPIC)
    data = claiming(IMAGE, recording.images[0].message, 48 * 64 * 3)
    with (
        open_bag(recording.write(tmp_path / "bag"), tmp_path, "humble") as bag,
        pytest.raises(UserError, match="cannot be read"),
        at_most(MOST_BYTES),
    ):
        bag.deserialize(RAW_TOPIC, data)


def test_the_bags_beside_them_are_converted(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for name, message in (("png", IMAGES["a PNG of 144 million pixels"]()), ("raw", raw(height=MOST, step=MOST))):
        recording = cell(seconds=1.0, topic=RAW_TOPIC if name == "raw" else JPEG_TOPIC)
        recording.images[9] = recording.images[9]._replace(message=message)
        recording.write(src / name)
    with_bomb(cell(seconds=1.0).write(src / "zstd", "sqlite3", "message"))
    cell(seconds=1.0).write(src / "good")
    with at_most(MOST_BYTES):
        summary = run(src, tmp_path / "out")
    assert summary.refused == []
    left_out = {bag["bag"]: bag.get("bad_messages") for bag in report(tmp_path / "out")["bags"]}
    assert [name for name, bad in left_out.items() if bad] == ["png", "raw", "zstd"]
    assert left_out["zstd"]["joints"]["reason"].startswith("the message is damaged: it does not unpack")
    for name in ("png", "raw"):
        bad = left_out[name]["color"]
        assert (bad["count"], bad["first_message"]) == (1, 9)
    traced = sources_of(tmp_path / "out")
    assert len(traced) == summary.frames
    shown = traced.groupby((traced["frame_index"] == 0).cumsum())["color.message"].agg(set)
    assert len(shown) == 4
    assert not any(9 in numbers for numbers in shown[1:3])  # behind the good bag
