"""Reads ROS 1 .bag files without an index, as a recorder that is killed leaves them (NAME.bag.active).

The file is walked record by record up to where it breaks (http://wiki.ros.org/Bags/Format/2.0): its chunks, and the messages
of a chunk that was never closed, which lie outside of any.
"""

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys.msg import normalize_msgtype

from common.cli.command import UserError, one_line
from stage1_convert.bags.compression import unpack
from stage1_convert.bags.message_types import ros1_to_cdr
from stage1_convert.bags.storage import LEAVE_OUT, Bytes, Channel

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, CHUNK, CONNECTION = 2, 3, 5, 7
DAMAGE = (UserError, struct.error, ValueError, KeyError, IndexError, OverflowError, OSError)
LENGTH, TIME = struct.Struct("<I"), struct.Struct("<II")

Fields = dict[bytes, bytes]


class _Section(NamedTuple):
    """Records that lie together in the file: a chunk's content, or messages outside of chunks."""

    start_ns: int
    end_ns: int
    offset: int
    size: int
    codec: str
    plain_size: int


class UnindexedRosbag1:
    """An open .bag file; what it lacks is added to `warnings`."""

    def __init__(self, path: Path, warnings: list[str]) -> None:
        self._name, self._size, self._warnings = path.name, path.stat().st_size, warnings
        self.channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._sections: list[_Section] = []
        self._file = path.open("rb")
        try:
            fault = self._walk()
            if not self._counts:
                raise UserError(f"holds no complete message ({fault}); {LEAVE_OUT}")
        except BaseException:
            self.close()
            raise
        for number, count in self._counts.items():
            self.channels[number] = self.channels[number]._replace(declared=count)
        count = self._counts.total()
        self._warn(f"{path.name} was not closed properly ({fault}): {count} messages before the damage are salvaged")
        self.start_ns = min(section.start_ns for section in self._sections)
        self.end_ns = max(section.end_ns for section in self._sections)

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, receive time in ns, message as CDR) in the order of the receive times."""
        waiting: list[tuple[int, int, Bytes]] = []
        for section in sorted(self._sections):
            ready = sum(1 for message in waiting if message[1] < section.start_ns)
            yield from map(self._as_cdr, waiting[:ready])
            found = [message for message in self._messages(section) if message[0] in wanted]
            waiting = sorted(waiting[ready:] + found, key=itemgetter(1))
        yield from map(self._as_cdr, waiting)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _as_cdr(self, message: tuple[int, int, Bytes]) -> tuple[int, int, bytes]:
        number, receive_ns, data = message
        return number, receive_ns, ros1_to_cdr(data, self.channels[number].type, self.channels[number].definition)

    def _walk(self) -> str:
        """Note all sections up to the first incomplete record; return what ends them."""
        offset, loose_from = len(MAGIC), 0
        try:
            while offset < self._size:
                fields, start, end = self._read_head(offset)
                kind = fields[b"op"][0]
                if kind in (MESSAGE, CONNECTION):
                    loose_from = loose_from or offset
                else:
                    self._add_loose(loose_from, offset)
                    loose_from = 0
                if kind == CHUNK and end > start:
                    self._add(start, end - start, fields[b"compression"].decode(), *LENGTH.unpack(fields[b"size"]))
                offset = end
        except DAMAGE as error:
            self._add_loose(loose_from, offset)
            return one_line(error)
        self._add_loose(loose_from, offset)
        return "its index is missing"

    def _read_head(self, offset: int) -> tuple[Fields, int, int]:
        """Return the fields of the record at `offset`, and where its data begins and ends."""
        self._file.seek(offset)
        fields = _split_fields(_read_block(self._file, self._size - offset))
        start = self._file.tell() + LENGTH.size
        (size,) = LENGTH.unpack(self._file.read(LENGTH.size))
        if size > self._size - start:
            raise UserError(f"no complete record at byte {offset} of {self._size}")
        return fields, start, start + size

    def _add_loose(self, start: int, end: int) -> None:
        if start:
            self._add(start, end - start, "none", end - start)

    def _add(self, offset: int, size: int, codec: str, plain_size: int) -> None:
        """Note a section, its connections, and how many messages it has; a damaged one only up to where it breaks."""
        section = _Section(0, 0, offset, size, codec, plain_size)
        times_ns = []
        for number, receive_ns, _ in self._messages(section):
            self._counts[number] += 1
            times_ns.append(receive_ns)
        if times_ns:
            self._sections.append(section._replace(start_ns=min(times_ns), end_ns=max(times_ns)))

    def _messages(self, section: _Section) -> Iterator[tuple[int, int, Bytes]]:
        """Yield (channel, receive time in ns, message of ROS 1), and note the connections on the way."""
        try:
            self._file.seek(section.offset)
            data = self._file.read(section.size)
            if section.codec != "none":
                data = unpack(data, section.codec, section.plain_size)
            for fields, content in _split_records(data):
                (number,) = LENGTH.unpack(fields[b"conn"])
                if fields[b"op"][0] == CONNECTION:
                    self.channels.setdefault(number, _channel(fields, content))
                elif fields[b"op"][0] == MESSAGE and number in self.channels:
                    seconds, nanoseconds = TIME.unpack(fields[b"time"])
                    yield number, seconds * 1_000_000_000 + nanoseconds, content
        except DAMAGE as error:
            self._warn(f"{self._name}: the chunk at byte {section.offset} is damaged ({one_line(error)})")

    def _warn(self, text: str) -> None:
        if text not in self._warnings:  # the file is read more than once
            self._warnings.append(text)


def has_index(path: Path) -> bool:
    """Return whether a .bag file says that it has an index; raises UserError when it is no .bag file or encrypted."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError("is no ROS 1 bag of format 2.0: it does not begin like one; copy or download it again")
        try:
            fields = _split_fields(_read_block(file, path.stat().st_size))
            (index,) = struct.unpack("<Q", fields[b"index_pos"])
        except DAMAGE:
            return False
    if fields.get(b"encryptor"):
        raise UserError(f"is encrypted by {fields[b'encryptor'].decode(errors='replace')}: decrypt it first")
    return bool(0 < index < path.stat().st_size)


def _channel(fields: Fields, content: Bytes) -> Channel:
    details = _split_fields(bytes(content))
    topic, msgtype = fields[b"topic"].decode(), normalize_msgtype(details[b"type"].decode())
    definition = MessageDefinition(MessageDefinitionFormat.MSG, details[b"message_definition"].decode())
    normal = "/" * topic.startswith("/") + "/".join(part for part in topic.split("/") if part)
    return Channel(normal, msgtype, "cdr", definition, 0)


def _read_block(file: BinaryIO, limit: int) -> bytes:
    """Read bytes that begin with their length."""
    (size,) = LENGTH.unpack(file.read(LENGTH.size))
    if size > limit:
        raise UserError(f"a header of {size} bytes runs over the end of the file")
    return file.read(size)


def _split_records(data: bytes) -> Iterator[tuple[Fields, memoryview]]:
    """Yield the header and the content of each record."""
    offset, view = 0, memoryview(data)
    while offset < len(data):
        ends = []
        for _ in range(2):
            (size,) = LENGTH.unpack_from(data, offset)
            offset += LENGTH.size + size
            if offset > len(data):
                raise UserError(f"no complete record at its byte {offset - size}")
            ends.append((offset - size, offset))
        (start, stop), content = ends[0], view[slice(*ends[1])]
        yield _split_fields(data[start:stop]), content


def _split_fields(header: bytes) -> Fields:
    """Return the fields NAME=VALUE of a header, each of which begins with its length."""
    fields, offset = {}, 0
    while offset < len(header):
        (size,) = LENGTH.unpack_from(header, offset)
        offset += LENGTH.size
        name, _, value = header[offset : offset + size].partition(b"=")
        fields[name] = value
        offset += size
    return fields
