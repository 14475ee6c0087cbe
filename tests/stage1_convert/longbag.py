"""Writes long bags with tiny images, far faster than they would be recorded."""

import struct
from pathlib import Path

import numpy as np
from mcap.writer import Writer

from tests.stage1_convert.recording import (
    COMPRESSED,
    DRIVER_JOINTS,
    JOINT_STATE,
    JOINT_TOPIC,
    JPEG_TOPIC,
    START_NS,
    TYPES,
    compressed_image,
    draw,
    joint_state,
    jpeg,
    motion,
)

SIZE = (16, 16)
DISTINCT = 4  # images, which take turns
DELAY_NS = 2_000_000  # from the header stamp to the receive time


def write_long_bag(path: Path, seconds: int, joint_hz: int, camera_hz: int) -> Path:
    """Write the .mcap file `path` and return it; the arm repeats its motion every second."""
    arm = bytearray(TYPES.serialize_cdr(joint_state(0, DRIVER_JOINTS, np.zeros(6)), JOINT_STATE))
    images = (compressed_image(0, jpeg(draw(number, *SIZE))) for number in range(DISTINCT))
    scenes = [bytearray(TYPES.serialize_cdr(image, COMPRESSED)) for image in images]
    angles = [row.tobytes() for row in motion(np.arange(joint_hz) / joint_hz)]
    shown = 0
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", "test")
        joints, camera = (
            register(writer, topic, kind) for topic, kind in ((JOINT_TOPIC, JOINT_STATE), (JPEG_TOPIC, COMPRESSED))
        )
        for number in range(seconds * joint_hz):
            if number * camera_hz >= shown * joint_hz:
                _add(writer, camera, shown * 10**9 // camera_hz, scenes[shown % DISTINCT])
                shown += 1
            arm[-56:-8] = angles[number % joint_hz]  # after them come the lengths of two empty arrays
            _add(writer, joints, number * 10**9 // joint_hz, arm)
        writer.finish()  # type: ignore[no-untyped-call]
    return path


def register(writer: Writer, topic: str, kind: str) -> int:
    """Return a new channel for messages of a type."""
    text, _ = TYPES.generate_msgdef(kind)
    return int(writer.register_channel(topic, "cdr", writer.register_schema(kind, "ros2msg", text.encode())))


def _add(writer: Writer, channel: int, offset_ns: int, message: bytearray) -> None:
    """Add a message with a stamp so long after the start."""
    stamp_ns = START_NS + offset_ns
    struct.pack_into("<iI", message, 4, *divmod(stamp_ns, 10**9))
    writer.add_message(channel, stamp_ns + DELAY_NS, bytes(message), stamp_ns + DELAY_NS)
