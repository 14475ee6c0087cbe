"""Writes long bags with tiny images, a thousand times faster than they would be recorded.

The messages of a chunk are laid out as arrays: an hour of joint states at 500 Hz takes a second.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, DataEnd, Footer, Header, Schema, Statistics
from rosbags.typesys import Stores, get_typestore

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
)

Int64 = npt.NDArray[np.int64]

MAGIC = b"\x89MCAP0\r\n"
CHUNK_S = 4
SIZE = (16, 16)
DISTINCT = 4  # images, which take turns
JOINTS, CAMERA = 1, 2  # channels
DELAY_NS = 2_000_000  # from the header stamp to the receive time


def write_long_bag(path: Path, seconds: int, joint_hz: int = 500, camera_hz: int = 30) -> Path:
    """Write the .mcap file `path` and return it."""
    arm = _Template(JOINTS, bytes(TYPES.serialize_cdr(joint_state(0, DRIVER_JOINTS, np.zeros(6)), JOINT_STATE)))
    scenes = [_Template(CAMERA, _image(number)) for number in range(DISTINCT)]
    counts, indices = {JOINTS: 0, CAMERA: 0}, list[ChunkIndex]()
    with path.open("wb") as file:
        file.write(MAGIC + _packed(Header("ros2", ""), *_descriptions()))
        for start_s in range(0, seconds, CHUNK_S):
            span = np.array([start_s, min(start_s + CHUNK_S, seconds)])
            joints, images = (np.arange(*(span * hz)) for hz in (joint_hz, camera_hz))
            blocks = [arm.repeat(joints * 10**9 // joint_hz, _angles(joints / joint_hz))]
            for turn, scene in enumerate(scenes):
                blocks.append(scene.repeat(images[images % DISTINCT == turn] * 10**9 // camera_hz))
            data = b"".join(blocks)
            first_ns, last_ns = (START_NS + int(edge_s) * 10**9 + DELAY_NS for edge_s in span)
            packed = bytes(pa.compress(data, "lz4", asbytes=True))
            chunk = _packed(Chunk("lz4", packed, last_ns, first_ns, 0, len(data)))
            offsets = {JOINTS: 0, CAMERA: 0}
            indices.append(
                ChunkIndex(len(chunk), file.tell(), "lz4", len(packed), last_ns, 0, offsets, first_ns, len(data))
            )
            file.write(chunk)
            counts[JOINTS] += len(joints)
            counts[CAMERA] += len(images)
        file.write(_packed(DataEnd(0)))
        start = file.tell()
        total = Statistics(0, 2, counts, len(indices), sum(counts.values()), last_ns, START_NS, 0, 2)
        file.write(_packed(*_descriptions(), *indices, total, Footer(0, start, 0)) + MAGIC)
    return path


class _Template:
    """A message of one channel, to be repeated with other stamps and, for a joint state, with other angles."""

    def __init__(self, channel: int, message: bytes) -> None:
        head = [("opcode", "u1"), ("size", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("times", "<u8", 2)]
        self._record = np.dtype([*head, ("data", "u1", len(message))])
        self._model = np.zeros(1, self._record)
        self._model["opcode"], self._model["channel"] = Opcode.MESSAGE, channel
        self._model["size"] = self._record.itemsize - 9
        self._model["data"] = np.frombuffer(message, np.uint8)

    def repeat(self, offsets_ns: Int64, angles: npt.NDArray[np.float64] | None = None) -> bytes:
        """Return the records of a message at each of these times after the start, with angles (messages, 6) in radians."""
        records = np.repeat(self._model, len(offsets_ns))
        stamps_ns = START_NS + offsets_ns
        records["times"] = (stamps_ns + DELAY_NS)[:, None]
        stamps = np.stack(np.divmod(stamps_ns, 10**9), axis=1).astype("<u4")
        records["data"][:, 4:12] = stamps.view(np.uint8)
        if angles is not None:  # after them come the lengths of two empty arrays
            records["data"][:, -56:-8] = np.ascontiguousarray(angles).view(np.uint8)
        return records.tobytes()


def _angles(times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return smooth angles in steps that compress well."""
    return np.round(np.sin(times_s[:, None] * np.linspace(0.5, 1.5, 6)) * 64) / 64


def _image(number: int) -> bytes:
    return bytes(TYPES.serialize_cdr(compressed_image(0, jpeg(draw(number, *SIZE))), COMPRESSED))


def _descriptions() -> Iterator[Schema | Channel]:
    types = get_typestore(Stores.ROS2_HUMBLE)
    for number, topic, kind in ((JOINTS, JOINT_TOPIC, JOINT_STATE), (CAMERA, JPEG_TOPIC, COMPRESSED)):
        text, _ = types.generate_msgdef(kind)
        yield Schema(number, text.encode(), "ros2msg", kind)
        yield Channel(number, topic, "cdr", {}, number)


def _packed(*records: Header | Schema | Channel | Chunk | ChunkIndex | DataEnd | Footer | Statistics) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]
