"""A recording as ROS 1 stores it: in a .bag file, in one whose recorder was killed, and in an MCAP file."""

import struct
from pathlib import Path
from typing import Any

from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.typesys import Stores, get_typestore

from tests.stage1_convert.recording import RecordedMessage, Recording

NOETIC = get_typestore(Stores.ROS1_NOETIC)
CHUNK_BYTES = 20_000


def write_bag(recording: Recording, path: Path, compression: str = "none") -> Path:
    """Write the .bag file `path`, in several chunks, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Rosbag1Writer(path)
    if compression != "none":
        writer.set_compression(Rosbag1Writer.CompressionFormat[compression.upper()])
    writer.chunk_threshold = CHUNK_BYTES
    with writer:
        connections: dict[str, Any] = {}
        for said in in_order(recording):
            if said.topic not in connections:
                connections[said.topic] = writer.add_connection(said.topic, said.type, typestore=NOETIC)
            writer.write(connections[said.topic], said.receive_ns, serialized(said))
    return path


def kill_recorder(bag: Path, path: Path) -> Path:
    """Move a .bag file to `path` without its index, which a recorder writes when it ends."""
    data = bytearray(bag.read_bytes())
    value = data.index(b"index_pos=") + len(b"index_pos=")
    (index,) = struct.unpack_from("<Q", data, value)
    struct.pack_into("<Q", data, value, 0)
    bag.unlink()
    path.write_bytes(data[:index])
    return path


def write_mcap(recording: Recording, path: Path) -> Path:
    """Write an MCAP file as `mcap convert` makes one of a .bag file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=CHUNK_BYTES)
        writer.start("ros1")
        channels: dict[str, int] = {}
        for said in in_order(recording):
            if said.topic not in channels:
                text, _ = NOETIC.generate_msgdef(said.type, ros_version=1)
                schema = writer.register_schema(said.type.replace("/msg/", "/"), "ros1msg", text.encode())
                channels[said.topic] = writer.register_channel(said.topic, "ros1", schema)
            writer.add_message(channels[said.topic], said.receive_ns, serialized(said), said.receive_ns)
        writer.finish()  # type: ignore[no-untyped-call]
    return path


def in_order(recording: Recording) -> list[RecordedMessage]:
    """Return all messages by their receive times."""
    messages = [*recording.joints, *recording.images, *recording.others]
    return sorted(messages, key=lambda said: said.receive_ns)


def serialized(said: RecordedMessage) -> bytes:
    """Serialize a message as ROS 1 does, whose header has a sequence number as well; bytes stay as they are."""
    if isinstance(said.message, bytes):
        return said.message
    old, stamp = said.message, said.message.header.stamp
    time = NOETIC.types["builtin_interfaces/msg/Time"](stamp.sec, stamp.nanosec)
    head = NOETIC.types["std_msgs/msg/Header"](seq=7, stamp=time, frame_id="base")
    names = [name for name, _ in NOETIC.fielddefs[said.type][1] if name != "header"]
    message = NOETIC.types[said.type](head, *(getattr(old, name) for name in names))
    return bytes(NOETIC.serialize_ros1(message, said.type))
