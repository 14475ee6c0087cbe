"""Reads MCAP files, complete or cut off: their channels and every complete message, in the order of receive times.

rosbags refuses files without a footer, with one unknown schema or another profile, and decompresses chunks of any size.
Here a file with a sound index is read by it, and any other is walked record by record up to where it breaks
(https://mcap.dev/spec). Messages of ROS 1, as `mcap convert` leaves them, are converted to the CDR form of ROS 2.
"""

import heapq
import itertools
import struct
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.typesys.msg import normalize_msgtype

from common.cli.command import UserError, one_line
from stage1_convert.bags.compression import check_size, unpack
from stage1_convert.bags.message_types import ros1_to_cdr
from stage1_convert.bags.storage import NO_DEFINITION, Bytes, Channel, definition

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS, DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
OPCODES = {*range(1, 0x10), *range(0x80, 0x100)}  # the spec's, and those it leaves to private use
DAMAGE = (UserError, struct.error, ValueError, KeyError, OverflowError, OSError)
RECORD, MESSAGE_HEAD, CHUNK_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)
MAX_RECORD_BYTES = 1 << 30
NEVER_NS = 1 << 62

Message = tuple[int, int, Bytes]  # channel, receive time in ns, serialized message


class Chunk(NamedTuple):
    """The time span of a chunk, where it is in the file, and its channels (empty: not known)."""

    start_ns: int
    end_ns: int
    offset: int
    channels: frozenset[int]


class Mcap:
    """An open .mcap file; damage that is found while it is read is added to `warnings`."""

    def __init__(self, path: Path, warnings: list[str]) -> None:
        self._warnings = warnings
        self._name, self._size = path.name, path.stat().st_size
        self._reset()
        self._file = path.open("rb")
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise UserError("is no MCAP file: it does not begin like one; copy or download it again")
            if not self._read_index():
                self._reset()
                self._salvage()
        except BaseException:
            self.close()
            raise
        for number, count in self._counts.items():
            if number in self.channels:
                self.channels[number] = self.channels[number]._replace(declared=count)
            else:
                self._warn(f"{self._name}: {count} messages belong to channel {number}, which is described nowhere")
        self.start_ns = min([*(chunk.start_ns for chunk in self._chunks), min(self._loose_ns, default=NEVER_NS)])
        self.end_ns = max([*(chunk.end_ns for chunk in self._chunks), max(self._loose_ns, default=0)])

    def read(self, wanted: Collection[int]) -> Iterator[Message]:
        """Return an iterator of (channel, receive time in ns, serialized message), in the order of the receive times."""
        found = self._read_chunks(frozenset(wanted))
        if self._loose_ns:
            found = heapq.merge(self._read_loose(wanted), found, key=itemgetter(1))
        return self._as_ros2(found) if self._ros1_channels.intersection(wanted) else found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _as_ros2(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield the messages with those of ROS 1 as CDR."""
        for number, receive_ns, data in messages:
            if number in self._ros1_channels:
                channel = self.channels[number]
                yield number, receive_ns, ros1_to_cdr(data, channel.type, channel.definition)
            else:
                yield number, receive_ns, data

    def _reset(self) -> None:
        self.channels: dict[int, Channel] = {}
        self._ros1_channels: set[int] = set()
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._counts: Counter[int] = Counter()
        self._chunks: list[Chunk] = []
        self._checked: set[int] = set()  # offsets of chunks whose checksum was right: a file is read twice
        self._loose_ns, self._loose_offsets = array("q"), array("q")  # messages outside of chunks: receive time, offset

    def _read_chunks(self, wanted: frozenset[int]) -> Iterator[Message]:
        waiting: list[Message] = []
        for chunk in sorted(chunk for chunk in self._chunks if not chunk.channels or chunk.channels & wanted):
            ready = sum(1 for message in waiting if message[1] < chunk.start_ns)
            yield from waiting[:ready]
            waiting = waiting[ready:] + self._read_chunk(chunk, wanted)
            waiting.sort(key=itemgetter(1))  # stable: equal times keep the order of the file
        yield from waiting

    def _read_chunk(self, chunk: Chunk, wanted: Collection[int]) -> list[Message]:
        """Return the wanted messages of a chunk, up to where it is damaged."""
        found: list[Message] = []
        try:
            opcode, record = self._read_record(chunk.offset)
            if opcode != CHUNK:
                raise UserError("it is no chunk")
            _collect(_decompress(record, check=chunk.offset not in self._checked), wanted, found)
            self._checked.add(chunk.offset)
        except DAMAGE as error:
            self._warn_of_chunk(chunk.offset, error)
        return found

    def _read_loose(self, wanted: Collection[int]) -> Iterator[Message]:
        order: Sequence[int] = range(len(self._loose_ns))
        if any(earlier > later for earlier, later in itertools.pairwise(self._loose_ns)):
            order = sorted(order, key=self._loose_ns.__getitem__)
        for index in order:
            _, record = self._read_record(self._loose_offsets[index])
            channel, _, receive_ns, _ = MESSAGE_HEAD.unpack_from(record)
            if channel in wanted:
                yield channel, receive_ns, record[MESSAGE_HEAD.size :]

    def _warn(self, text: str) -> None:
        if text not in self._warnings:  # the file is read more than once
            self._warnings.append(text)

    def _warn_of_chunk(self, offset: int, error: Exception) -> None:
        self._warn(f"{self._name}: the chunk at byte {offset} is damaged ({one_line(error)}); the rest is read")

    def _read_head(self, offset: int) -> tuple[int, int]:
        """Return the opcode and size of the record at `offset`."""
        self._file.seek(offset)
        opcode, size = RECORD.unpack(self._file.read(RECORD.size))
        if opcode not in OPCODES or size > self._size - offset - RECORD.size:
            raise UserError(f"no complete record at byte {offset} of {self._size}")
        return opcode, size

    def _read_record(self, offset: int, limit: int = MAX_RECORD_BYTES) -> tuple[int, bytes]:
        opcode, size = self._read_head(offset)
        return opcode, self._file.read(min(size, limit))

    def _read_index(self) -> bool:
        """Read the summary at the end of the file; return False when there is none that can be relied on."""
        try:
            self._file.seek(self._size - FOOTER_BYTES)
            footer = self._file.read(FOOTER_BYTES)
            opcode, size, start, _, checksum = struct.unpack_from("<BQQQI", footer)
            sound = footer.endswith(MAGIC) and (opcode, size) == (FOOTER, 20) and len(MAGIC) <= start < self._size
            if not sound:
                return False
            self._file.seek(start)
            summary = self._file.read(self._size - FOOTER_BYTES - start)
            if checksum and zlib.crc32(summary + footer[: -len(MAGIC) - 4]) != checksum:
                return False
            seen = set()
            for opcode, record in _split(summary):
                self._note(opcode, record)
                seen.add(opcode)
        except DAMAGE:
            return False
        if not checksum:  # nothing proves which channels are in which chunk: every chunk is read
            self._chunks = [chunk._replace(channels=frozenset()) for chunk in self._chunks]
        return seen >= {STATISTICS, CHANNEL, SCHEMA, CHUNK_INDEX}

    def _salvage(self) -> None:
        """Collect everything up to the first incomplete record; a file that was closed properly loses nothing."""
        offset = len(MAGIC)
        try:
            while offset < self._size - len(MAGIC):
                opcode, size = self._read_head(offset)
                if opcode in (DATA_END, FOOTER):
                    return
                if opcode == CHUNK:
                    self._salvage_chunk(offset, self._read_record(offset)[1])
                elif opcode == MESSAGE:
                    channel, _, receive_ns, _ = MESSAGE_HEAD.unpack_from(
                        self._read_record(offset, MESSAGE_HEAD.size)[1]
                    )
                    self._counts[channel] += 1
                    self._loose_ns.append(receive_ns)
                    self._loose_offsets.append(offset)
                elif opcode in (SCHEMA, CHANNEL):
                    self._note(opcode, self._read_record(offset)[1])
                offset += RECORD.size + size
        except DAMAGE as error:
            fault = one_line(error)
        else:
            fault = "its end is missing"
        found = sum(self._counts.values())
        self._warn(f"{self._name} was not closed properly ({fault}): {found} messages before the damage are salvaged")

    def _salvage_chunk(self, offset: int, record: bytes) -> None:
        start_ns, end_ns, _, _ = CHUNK_HEAD.unpack_from(record)
        counts: Counter[int] = Counter()
        try:
            for opcode, item in _split(_decompress(record)):
                if opcode == MESSAGE:
                    counts[MESSAGE_HEAD.unpack_from(item)[0]] += 1
                else:
                    self._note(opcode, item)
        except DAMAGE as error:
            self._warn_of_chunk(offset, error)
        self._counts += counts
        if counts:
            self._chunks.append(Chunk(start_ns, end_ns, offset, frozenset(counts)))

    def _note(self, opcode: int, record: Bytes) -> None:
        """Note what a record says about the file."""
        if opcode == SCHEMA:
            number, name, encoding, text = _unpack_fields(record, "<H", 3)
            self._schemas[number] = name, encoding, text
        elif opcode == CHANNEL:
            number, schema, topic, serialization = _unpack_fields(record, "<HH", 2)
            name, encoding, text = self._schemas.get(schema, ("", "", ""))
            known = definition(encoding, text) if name else NO_DEFINITION
            if serialization == "ros1":
                self._ros1_channels.add(number)
                name, serialization = normalize_msgtype(name), "cdr"
            self.channels.setdefault(number, Channel(topic, name, serialization, known, 0))
        elif opcode == CHUNK_INDEX:
            start_ns, end_ns, offset, size, length = struct.unpack_from("<QQQQI", record)
            channels = frozenset(number for number, _ in struct.iter_unpack("<HQ", record[36 : 36 + length]))
            if offset + size > self._size:
                raise UserError("the index points behind the end of the file")
            self._chunks.append(Chunk(start_ns, end_ns, offset, channels))
        elif opcode == STATISTICS:
            (length,) = struct.unpack_from("<I", record, 42)
            self._counts.update(dict(struct.iter_unpack("<HQ", record[46 : 46 + length])))


def _split(data: Bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the records of a summary or of a decompressed chunk."""
    offset, view = 0, memoryview(data)
    while offset < len(data):
        opcode, size = RECORD.unpack_from(data, offset)
        offset += RECORD.size
        if opcode not in OPCODES or size > len(data) - offset:
            raise UserError(f"no complete record at its byte {offset - RECORD.size}")
        yield opcode, view[offset : offset + size]
        offset += size


def _collect(data: memoryview, wanted: Collection[int], found: list[Message]) -> None:
    """Append the wanted messages of a decompressed chunk.

    This is `_split` without a generator and with few slices: a chunk is read twice, and mostly for some of its messages.
    """
    offset, end, head, unpack_head = 0, len(data), RECORD.size, MESSAGE_HEAD.unpack_from
    while offset < end:
        opcode, size = RECORD.unpack_from(data, offset)
        offset += head
        if opcode not in OPCODES or size > end - offset:
            raise UserError(f"no complete record at its byte {offset - head}")
        if opcode == MESSAGE:
            if size < MESSAGE_HEAD.size:
                raise UserError(f"no complete message at its byte {offset}")
            channel, _, receive_ns, _ = unpack_head(data, offset)
            if channel in wanted:
                message = data[offset + MESSAGE_HEAD.size : offset + size]
                # A view keeps the whole chunk in memory: only an image or the like is worth that.
                found.append((channel, receive_ns, message if 16 * size > end else bytes(message)))
        offset += size


def _decompress(record: bytes, check: bool = True) -> memoryview:
    """Return the content of a chunk; raises UserError when its size or, with `check`, its checksum is wrong."""
    _, _, size, checksum = CHUNK_HEAD.unpack_from(record)
    codec, rest = _unpack_text(record, CHUNK_HEAD.size)
    packed = memoryview(record)[rest + 8 :]
    check_size(size, len(packed))
    data = memoryview(unpack(bytes(packed), codec, size)) if codec else packed
    if len(data) != size:
        raise UserError(f"it holds {len(data)} of {size} bytes")
    if check and checksum and zlib.crc32(data) != checksum:
        raise UserError("its checksum is wrong")
    return data


def _unpack_fields(record: Bytes, head: str, texts: int) -> list[Any]:
    """Return the fields of a record: the numbers of a struct format, then so many strings."""
    values: list[Any] = list(struct.unpack_from(head, record))
    offset = struct.calcsize(head)
    for _ in range(texts):
        text, offset = _unpack_text(record, offset)
        values.append(text)
    return values


def _unpack_text(record: Bytes, offset: int) -> tuple[str, int]:
    """Return the string at `offset` and the offset behind it."""
    (length,) = struct.unpack_from("<I", record, offset)
    end = offset + 4 + length
    if end > len(record):
        raise UserError("a text runs over the end of its record")
    return bytes(record[offset + 4 : end]).decode(errors="replace"), end
