"""An MCAP file in, whole or cut off; its channels and every complete message, in the order of time, out.

rosbags refuses files without a footer, with one odd schema or another profile, and unpacks chunks of any size. Here a
file whose index is sound is read by it, and any other is walked record by record up to where it breaks
(https://mcap.dev/spec).
"""

import heapq
import itertools
import struct
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.command import UserError, one_line
from stage1_convert.bags.compression import check_size, unpack
from stage1_convert.bags.storage import NO_DEFINITION, Bytes, Channel, definition

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS, DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
OPCODES = {*range(1, 0x10), *range(0x80, 0x100)}  # the spec's, and those it leaves to private use
DAMAGE = (UserError, struct.error, ValueError, KeyError, OverflowError, OSError)
RECORD, MESSAGE_HEAD, CHUNK_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
FOOTER_BYTES = 9 + 20 + 8
MAX_RECORD_BYTES = 1 << 30


class Chunk(NamedTuple):
    """Where a chunk stands, the times it spans, and the channels in it (empty: not known)."""

    start_ns: int
    end_ns: int
    offset: int
    size: int
    channels: frozenset[int]


class Mcap:
    """An open .mcap file; damage that is met while it is read is added to `warnings`."""

    def __init__(self, path: Path, warnings: list[str]) -> None:
        self._warnings = warnings
        self.channels: dict[int, Channel] = {}
        self._name = path.name
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._counts: Counter[int] = Counter()
        self._chunks: list[Chunk] = []
        self._sets: dict[frozenset[int], frozenset[int]] = {}  # of channels: a day has many chunks, and few of these
        # Messages that lie in no chunk: their times and places, the two halves of one table.
        self._loose = array("q"), array("q")
        self._file = path.open("rb")
        self._size = path.stat().st_size
        try:
            if self._file.read(8) != MAGIC:
                raise UserError("is no MCAP file: it does not begin like one")
            if not self._read_summary():
                self._walk()
        except BaseException:
            self.close()
            raise
        for number, count in self._counts.items():
            if number in self.channels:
                self.channels[number] = self.channels[number]._replace(declared=count)
            else:
                self._warn(f"{self._name}: {count} messages belong to channel {number}, which is described nowhere")
        times = [c.start_ns for c in self._chunks], [c.end_ns for c in self._chunks]
        self.start_ns = min([*times[0], min(self._loose[0], default=1 << 62)])
        self.end_ns = max([*times[1], max(self._loose[0], default=0)])

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, Bytes]]:
        """Return an iterator of (channel, receive time in ns, serialized message), in the order of the receive times."""
        chosen = frozenset(wanted)
        chunked = self._read_chunks(chosen)
        if not self._loose[0]:
            return chunked
        return heapq.merge(self._read_loose(chosen), chunked, key=itemgetter(1))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _read_chunks(self, wanted: frozenset[int]) -> Iterator[tuple[int, int, Bytes]]:
        waiting: list[tuple[int, int, Bytes]] = []
        chunks = sorted(chunk for chunk in self._chunks if not chunk.channels or chunk.channels & wanted)
        for chunk in chunks:
            ready = sum(1 for message in waiting if message[1] < chunk.start_ns)
            yield from waiting[:ready]
            waiting = waiting[ready:] + self._messages(chunk, wanted)
            waiting.sort(key=itemgetter(1))  # stable: equal times keep the order of the file
        yield from waiting

    def _read_loose(self, wanted: Collection[int]) -> Iterator[tuple[int, int, Bytes]]:
        times_ns, places = self._loose
        order: Sequence[int] = range(len(places))
        if any(one > two for one, two in itertools.pairwise(times_ns)):
            order = sorted(order, key=times_ns.__getitem__)
        for at in order:
            channel, _, receive_ns, _, data = _message(self._record(places[at])[1])
            if channel in wanted:
                yield channel, receive_ns, data

    def _messages(self, chunk: Chunk, wanted: Collection[int]) -> list[tuple[int, int, Bytes]]:
        """Return those of a chunk's messages that are wanted, up to where it is damaged."""
        found: list[tuple[int, int, Bytes]] = []
        try:
            opcode, record = self._record(chunk.offset)
            if opcode != CHUNK:
                raise UserError("it is no chunk")
            _collect(_unpacked(record), wanted, found)
        except DAMAGE as error:
            self._warn(
                f"{self._name}: the chunk at byte {chunk.offset} is damaged ({one_line(error)}); the rest is read"
            )
        return found

    def _warn(self, text: str) -> None:
        if text not in self._warnings:  # the file is read more than once
            self._warnings.append(text)

    def _head(self, offset: int) -> tuple[int, int]:
        self._file.seek(offset)
        opcode, size = RECORD.unpack(self._file.read(RECORD.size))
        if opcode not in OPCODES or size > self._size - offset - RECORD.size:
            raise UserError(f"no complete record at byte {offset} of {self._size}")
        return opcode, size

    def _record(self, offset: int, limit: int = MAX_RECORD_BYTES) -> tuple[int, bytes]:
        opcode, size = self._head(offset)
        return opcode, self._file.read(min(size, limit))

    def _read_summary(self) -> bool:
        """Read the index at the end; False when there is none that a reader can rely on."""
        try:
            self._file.seek(self._size - FOOTER_BYTES)
            data = self._file.read(FOOTER_BYTES)
            start = summary_start(data)
            if start is None or not len(MAGIC) <= start < self._size:
                return False
            (checksum,) = struct.unpack_from("<I", data, FOOTER_BYTES - len(MAGIC) - 4)
            self._file.seek(start)
            summary = self._file.read(self._size - FOOTER_BYTES - start)
            if checksum and zlib.crc32(summary + data[:-12]) != checksum:
                return False
            seen = Counter(self._take(opcode, record) for opcode, record in _records(summary))
        except DAMAGE:
            seen = Counter()
        sound = bool(seen[STATISTICS] and seen[CHANNEL] and seen[SCHEMA] and seen[CHUNK_INDEX])
        if not sound:
            self.channels, self._schemas, self._chunks, self._counts = {}, {}, [], Counter()
        elif not checksum:  # nothing vouches for which channels are in which chunk: none is passed over
            self._chunks = [chunk._replace(channels=frozenset()) for chunk in self._chunks]
        return sound

    def _walk(self) -> None:
        """Collect everything up to the first incomplete record; a file that was closed properly loses nothing."""
        offset = len(MAGIC)
        try:
            while offset < self._size - len(MAGIC):
                opcode, size = self._head(offset)
                if opcode in (DATA_END, FOOTER):
                    return
                if opcode == CHUNK:
                    self._take_chunk(offset, self._record(offset)[1])
                elif opcode == MESSAGE:
                    head = self._record(offset, MESSAGE_HEAD.size)[1]
                    channel, _, receive_ns, _ = MESSAGE_HEAD.unpack_from(head)
                    self._counts[channel] += 1
                    self._loose[0].append(receive_ns)
                    self._loose[1].append(offset)
                elif opcode in (SCHEMA, CHANNEL):
                    self._take(opcode, self._record(offset)[1])
                offset += RECORD.size + size
        except DAMAGE as error:
            fault = one_line(error)
        else:
            fault = "its end is missing"
        found = sum(self._counts.values())
        self._warn(f"{self._name} was not closed properly ({fault}): {found} messages before the damage are salvaged")

    def _take_chunk(self, offset: int, record: bytes) -> None:
        start_ns, end_ns, size, _ = CHUNK_HEAD.unpack_from(record)
        inside: Counter[int] = Counter()
        try:
            for opcode, item in _records(_unpacked(record)):
                if opcode == MESSAGE:
                    inside[MESSAGE_HEAD.unpack_from(item)[0]] += 1
                else:
                    self._take(opcode, item)
        except DAMAGE as error:
            self._warn(f"{self._name}: the chunk at byte {offset} is damaged ({one_line(error)}); the rest is read")
        self._counts += inside
        if inside:
            self._add_chunk(start_ns, end_ns, offset, size, inside)

    def _take(self, opcode: int, record: Bytes) -> int:
        """Note what a record says; return its opcode."""
        if opcode == SCHEMA:
            number, name, encoding, text = _fields(record, "<H", 3)
            self._schemas[number] = name, encoding, text
        elif opcode == CHANNEL:
            number, schema, topic, serialization = _fields(record, "<HH", 2)
            name, encoding, text = self._schemas.get(schema, ("", "", ""))
            known = definition(encoding, text) if name else NO_DEFINITION
            self.channels.setdefault(number, Channel(topic, name, serialization, known, 0))
        elif opcode == CHUNK_INDEX:
            start_ns, end_ns, offset, size, length = struct.unpack_from("<QQQQI", record)
            channels = [number for number, _ in struct.iter_unpack("<HQ", record[36 : 36 + length])]
            if offset + size > self._size:
                raise UserError("the index points behind the end of the file")
            self._add_chunk(start_ns, end_ns, offset, size, channels)
        elif opcode == STATISTICS:
            (length,) = struct.unpack_from("<I", record, 42)
            self._counts.update(dict(struct.iter_unpack("<HQ", record[46 : 46 + length])))
        return opcode

    def _add_chunk(self, start_ns: int, end_ns: int, offset: int, size: int, channels: Iterable[int]) -> None:
        held = frozenset(channels)
        self._chunks.append(Chunk(start_ns, end_ns, offset, size, self._sets.setdefault(held, held)))


def summary_start(footer: bytes) -> int | None:
    """Return where the summary of a file begins whose last FOOTER_BYTES are `footer`; None when it has none."""
    if len(footer) != FOOTER_BYTES or footer[-8:] != MAGIC:
        return None
    opcode, size, start = struct.unpack_from("<BQQ", footer)
    return start if (opcode, size) == (FOOTER, 20) and start else None


def _records(data: Bytes) -> Iterator[tuple[int, memoryview]]:
    at, view = 0, memoryview(data)
    while at < len(data):
        opcode, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if opcode not in OPCODES or size > len(data) - at:
            raise UserError(f"no complete record at its byte {at - RECORD.size}")
        yield opcode, view[at : at + size]
        at += size


def _collect(data: memoryview, wanted: Collection[int], found: list[tuple[int, int, Bytes]]) -> None:
    """Append the wanted messages of an unpacked chunk, copying little: it is read twice, and mostly for some."""
    at, end, head, unpack = 0, len(data), RECORD.size, MESSAGE_HEAD.unpack_from
    while at < end:
        opcode, size = RECORD.unpack_from(data, at)
        at += head
        if opcode not in OPCODES or size > end - at:
            raise UserError(f"no complete record at its byte {at - head}")
        if opcode == MESSAGE:
            if size < MESSAGE_HEAD.size:
                raise UserError(f"no complete message at its byte {at}")
            channel, _, receive_ns, _ = unpack(data, at)
            if channel in wanted:
                message = data[at + MESSAGE_HEAD.size : at + size]
                # A piece keeps its whole chunk in memory: only a large one is worth that.
                found.append((channel, receive_ns, message if 4 * size > end else bytes(message)))
        at += size


def _message(record: Bytes) -> tuple[int, int, int, int, bytes]:
    return (*MESSAGE_HEAD.unpack_from(record), bytes(record[MESSAGE_HEAD.size :]))


def _unpacked(record: bytes) -> memoryview:
    """Return what a chunk holds; its size and, when it has one, its checksum are right."""
    _, _, size, checksum = CHUNK_HEAD.unpack_from(record)
    codec, rest = _text(record, CHUNK_HEAD.size)
    packed = memoryview(record)[rest + 8 :]
    check_size(size, len(packed))
    data = memoryview(unpack(bytes(packed), codec, size)) if codec else packed
    if len(data) != size or (checksum and zlib.crc32(data) != checksum):
        raise UserError("its checksum is wrong" if len(data) == size else f"it holds {len(data)} of {size} bytes")
    return data


def _fields(record: Bytes, head: str, texts: int) -> list[Any]:
    values: list[Any] = list(struct.unpack_from(head, record))
    at = struct.calcsize(head)
    for _ in range(texts):
        text, at = _text(record, at)
        values.append(text)
    return values


def _text(record: Bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", record, at)
    if at + 4 + length > len(record):
        raise UserError("a text runs over the end of its record")
    return bytes(record[at + 4 : at + 4 + length]).decode(errors="replace"), at + 4 + length
