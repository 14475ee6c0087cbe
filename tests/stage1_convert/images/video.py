"""Compressed video topics for tests: numbered images as packets, packets as messages, messages in a bag."""

import sqlite3
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from stage1_convert.bags.message_types import FFMPEG, FOREIGN
from tests.stage1_convert.recording import JOINT_STATE, JOINT_TOPIC, MS, RAW_TOPIC, START_NS, draw, header, joint_state


class Packet(NamedTuple):
    """A packet of a video, and the number drawn into the image that it brings."""

    number: int
    is_key: bool
    data: bytes


def packets(codec: str, count: int, b_frames: int = 0) -> list[Packet]:
    """Encode numbered images, every tenth as a key frame; return their packets in the order of the stream."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 128, 96, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), 30
    encoder.gop_size, encoder.max_b_frames, encoder.thread_count = 10, b_frames, 1
    quiet = {"x265-params": "log-level=none:pools=none:frame-threads=1"} if codec == "libx265" else {}
    encoder.options = {"preset": "medium" if b_frames else "ultrafast", "crf": "10", **quiet}
    found = []
    for number in [*range(count), None]:
        frame = None
        if number is not None:
            frame = av.VideoFrame.from_ndarray(draw(number, 96, 128), format="rgb24")
            frame.pts = number
        found += [Packet(int(part.pts), bool(part.is_keyframe), bytes(part)) for part in encoder.encode(frame)]
    return found


def video_message(types: Any, msgtype: str, codec: str, stamp_ns: int, is_key: bool, data: bytes) -> Any:
    """Return a packet as a message of either type of video topics."""
    array = np.frombuffer(data, np.uint8)
    if msgtype == FFMPEG:
        return types.types[msgtype](header(stamp_ns), 128, 96, codec, stamp_ns, int(is_key), False, array)
    return types.types[msgtype](header(stamp_ns).stamp, "cam", array, "h264" if "264" in codec else "h265")


def write_video_bag(path: Path, msgtype: str, codec: str, stream: list[Packet], defined: bool = True) -> Path:
    """Write a bag with one message of the joint "a" and a video; unless it is `defined`, without message definitions."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(FOREIGN[msgtype], msgtype))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if defined else StoragePlugin.SQLITE3) as writer:
        joints = writer.add_connection(JOINT_TOPIC, JOINT_STATE, typestore=types)
        camera = writer.add_connection(RAW_TOPIC, msgtype, typestore=types)
        writer.write(joints, START_NS, types.serialize_cdr(joint_state(START_NS, ["a"], [0.0]), JOINT_STATE))
        for n, packet in enumerate(stream):
            stamp_ns = START_NS + n * 33 * MS
            message = video_message(types, msgtype, codec, stamp_ns, packet.is_key, packet.data)
            writer.write(camera, stamp_ns, types.serialize_cdr(message, msgtype))
    if not defined:
        with sqlite3.connect(path / f"{path.name}.db3") as database:
            database.execute("DELETE FROM message_definitions")
    return path
