"""Finds where each number and string of a serialized message is stored, given the message's definition.

CDR (OMG XCDR1, as ROS 2 writes it) stores fields one after the other, each number aligned to its own size, counted from
behind the four bytes of the encapsulation header. A string or a sequence begins with its length as a uint32. Nothing else
decides about the offsets. As an example, a sensor_msgs/JointState of one joint, 52 bytes:

    offset  bytes                     field
    0       00 01 00 00               encapsulation header: plain CDR, little endian
    4       01 00 00 00               header.stamp.sec = 1
    8       f4 01 00 00               header.stamp.nanosec = 500
    12      02 00 00 00  62 00        header.frame_id: 2 bytes, "b" and its terminator
    18      00 00                     padding: a uint32 is aligned to 4 bytes
    20      01 00 00 00               name: a sequence of 1
    24      02 00 00 00  61 00        name.0: 2 bytes, "a" and its terminator
    30      00 00                     padding
    32      01 00 00 00               position: a sequence of 1
    36      00 00 00 00 00 00 e0 3f   position.0 = 0.5; a float64 is aligned to 8 bytes, and 36 - 4 is a multiple of 8
    44      00 00 00 00               velocity: empty
    48      00 00 00 00               effort: empty

Its layout, when `name` and `position` are wanted and the stamp is `header.stamp`:

    offsets  header.stamp.sec: 4, <i4    header.stamp.nanosec: 8, <u4    position: 36, <f8, length 1
    strings  name.0: "a"
    guards   the two bytes at 0, the lengths at 12, 20, 24 and 32, and the string at 28

Every message that has the same bytes at the guards has the same layout.
"""

import struct
from typing import Any, NamedTuple

from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.bags.storage import require_message

NUMBERS = {
    "bool": "u1",
    "byte": "u1",
    "char": "u1",
    "uint8": "u1",
    "int8": "i1",
    "uint16": "u2",
    "int16": "i2",
    "uint32": "u4",
    "int32": "i4",
    "uint64": "u8",
    "int64": "i8",
    "float32": "f4",
    "float64": "f8",
}
START = 4  # alignment counts from behind the encapsulation header


class Offset(NamedTuple):
    """Where `length` numbers of one numpy dtype are stored, one after the other; `start` counts bytes."""

    start: int
    dtype: str
    length: int

    @property
    def stop(self) -> int:
        """Return the offset of the first byte behind them."""
        return self.start + self.length * int(self.dtype[-1])

    def element(self, index: int) -> "Offset":
        """Return where one of the numbers is stored."""
        return Offset(self.start + index * int(self.dtype[-1]), self.dtype, 1)


class MessageLayout(NamedTuple):
    """The numbers and strings of a message by path, such as wrench.force.z, position or joint_names.0.

    `guards` are pairs (offset, bytes) of everything that decides about the offsets, and of the strings themselves.
    """

    offsets: dict[str, Offset]
    strings: dict[str, str]
    guards: list[tuple[int, bytes]]

    def names(self, path: str) -> tuple[str, ...]:
        """Return the elements of a string sequence."""
        return tuple(text for key, text in self.strings.items() if key.rpartition(".")[0] == path)


def find_layout(
    types: Typestore, msgtype: str, data: bytes, wanted: frozenset[str], stamp: str | None
) -> MessageLayout:
    """Lay out the top-level fields of `data` up to the last of the `wanted` ones and the one of the `stamp`.

    Only strings in wanted fields are kept and guarded. Raises UserError when the message is damaged, or has fields that
    cannot be laid out (wide strings).
    """
    require_message(data)
    if data[:2] not in (b"\0\0", b"\0\1"):
        raise UserError("the message is damaged: it does not begin like one of ROS 2")
    cursor = _Cursor(types, data, wanted)
    try:
        cursor.message(msgtype, "", wanted | {stamp.partition(".")[0]} if stamp else wanted)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"the message is damaged: its {len(data)} bytes end early") from error
    return cursor.layout


def check_path(types: Typestore, msgtype: str, path: str) -> None:
    """Raise UserError, naming the existing fields, unless `path` leads to one number of `msgtype`."""
    desc: Any = (Nodetype.NAME, msgtype)
    walked = ""
    for part in path.split("."):
        desc = _descend(types, desc, part, walked, msgtype)
        walked = f"{walked}.{part}".lstrip(".")
    kind, detail = desc
    if kind == Nodetype.NAME:
        fields = ", ".join(dict(types.fielddefs[detail][1]))
        raise UserError(f"{walked} of {msgtype} is not a number; its fields: {fields}")
    if kind != Nodetype.BASE:
        raise UserError(f"{walked} of {msgtype} is an array; add the number of an element, as in {walked}.0")
    if detail[0] not in NUMBERS:
        raise UserError(f"{walked} of {msgtype} is a {detail[0]}, expected a number")


def _descend(types: Typestore, desc: Any, part: str, walked: str, msgtype: str) -> Any:
    """Return rosbags' description of the field or element `part` of the field at the path `walked`."""
    kind, detail = desc
    owner = f"{walked} of {msgtype}" if walked else msgtype
    if kind == Nodetype.NAME:
        fields = dict(types.fielddefs[detail][1])
        if part not in fields:
            raise UserError(f"{owner} has no field {part}; its fields: {', '.join(fields)}")
        return fields[part]
    if kind == Nodetype.BASE:
        raise UserError(f"{owner} is one {detail[0]} and has no field {part}")
    length = detail[1] if kind == Nodetype.ARRAY else None
    if not part.isdecimal() or (length is not None and int(part) >= length):
        size = f" of {length}" if length is not None else ""
        raise UserError(f"{owner} is an array{size}: expected a number in place of {part}, as in {walked}.0")
    return detail[0]


class _Cursor:
    """A position that moves through one message and notes what it passes in `layout`."""

    def __init__(self, types: Typestore, data: bytes, wanted: frozenset[str]) -> None:
        self.types, self.data, self.wanted = types, data, wanted
        self.order = "<" if data[1] else ">"
        self.position = START
        self.layout = MessageLayout({}, {}, [(0, data[:2])])

    def message(self, msgtype: str, prefix: str, wanted: frozenset[str] = frozenset()) -> None:
        missing = set(wanted)
        for name, (kind, detail) in self.types.fielddefs[msgtype][1]:
            self.field(kind, detail, prefix + name)
            missing.discard(name)
            if wanted and not missing:
                return

    def field(self, kind: Any, detail: Any, path: str) -> None:
        if kind == Nodetype.NAME:
            self.message(detail, f"{path}.")
        elif kind == Nodetype.BASE:
            self.elements((kind, detail), 1, path, single=True)
        elif kind == Nodetype.ARRAY:
            self.elements(detail[0], detail[1], path)
        else:
            self.elements(detail[0], self.length(), path)

    def elements(self, desc: Any, count: int, path: str, single: bool = False) -> None:
        kind, detail = desc
        if kind == Nodetype.NAME:
            for index in range(count):
                self.message(detail, f"{path}.{index}.")
        elif detail[0] == "string":
            for index in range(count):
                self.string(path if single else f"{path}.{index}")
        else:
            self.numbers(NUMBERS[detail[0]], count, path)

    def numbers(self, dtype: str, count: int, path: str) -> None:
        if count:  # an empty sequence is not followed by the padding of its elements
            self.align(int(dtype[1]))
        offset = Offset(self.position, self.order + dtype, count)
        if offset.stop > len(self.data):
            raise IndexError
        self.layout.offsets[path] = offset
        self.position = offset.stop

    def string(self, path: str) -> None:
        length = self.length()
        text = self.data[self.position : self.position + length]
        if not text.endswith(b"\0") or len(text) != length:
            raise IndexError
        if path.partition(".")[0] in self.wanted:
            self.layout.strings[path] = text[:-1].decode()
            self.layout.guards.append((self.position, text))
        self.position += length

    def length(self) -> int:
        self.align(4)
        (length,) = struct.unpack_from(self.order + "I", self.data, self.position)
        self.layout.guards.append((self.position, self.data[self.position : self.position + 4]))
        self.position += 4
        return int(length)

    def align(self, size: int) -> None:
        self.position += (START - self.position) % size
