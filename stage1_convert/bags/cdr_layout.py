"""A message's definition and its CDR bytes in; where each of its numbers and texts stands, out.

CDR (OMG XCDR1, as ROS 2 writes it) places fields by the lengths of the strings and sequences before them and by nothing
else. What is found in one message therefore holds for every message that has the same bytes at its `guards`.
"""

import struct
from typing import Any, NamedTuple

from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

from common.cli.command import UserError

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


class Place(NamedTuple):
    """Where `length` numbers of numpy's `dtype` stand one after the other."""

    offset: int
    dtype: str
    length: int

    def one(self, index: int) -> "Place":
        """Return the place of one of them."""
        return Place(self.offset + index * int(self.dtype[-1]), self.dtype, 1)


class Layout(NamedTuple):
    """The numbers and texts of a message by path, such as wrench.force.z, position or joint_names.0.

    `guards` are pairs (offset, bytes) of everything that decides about the places, and the texts themselves.
    """

    places: dict[str, Place]
    texts: dict[str, str]
    guards: list[tuple[int, bytes]]

    def names(self, path: str) -> tuple[str, ...]:
        """Return the texts of a string sequence."""
        return tuple(text for key, text in self.texts.items() if key.rpartition(".")[0] == path)


def find_layout(types: Typestore, msgtype: str, data: bytes, wanted: frozenset[str], stamp: str | None) -> Layout:
    """Lay out the top-level fields of `data` up to the last of the `wanted` ones and the one of the `stamp`.

    Only texts in wanted fields are kept and guarded. Raises UserError when the message is damaged, or has fields that
    this cannot place (wide strings).
    """
    if data[:2] not in (b"\0\0", b"\0\1"):
        raise UserError("the message is not plain CDR")
    walk = _Walk(types, data, wanted)
    try:
        walk.message(msgtype, "", wanted | {stamp.partition(".")[0]} if stamp else wanted)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"the message ({len(data)} bytes) ends early or is damaged") from error
    return Layout(walk.places, walk.texts, walk.guards)


def check_path(types: Typestore, msgtype: str, path: str) -> None:
    """Raise UserError, naming the fields there are, unless `path` leads to one number of `msgtype`."""
    desc: Any = (Nodetype.NAME, msgtype)
    walked = ""
    for part in path.split("."):
        kind, detail = desc
        place = f"{walked} of {msgtype}" if walked else msgtype
        if kind == Nodetype.NAME:
            fields = dict(types.fielddefs[detail][1])
            if part not in fields:
                raise UserError(f"{place} has no field {part}; its fields: {', '.join(fields)}")
            desc = fields[part]
        elif kind == Nodetype.BASE:
            raise UserError(f"{place} is one {detail[0]} and has no field {part}")
        else:
            length = detail[1] if kind == Nodetype.ARRAY else None
            if not part.isdecimal() or (length is not None and int(part) >= length):
                size = f" of {length}" if length is not None else ""
                raise UserError(f"{place} is an array{size}: expected a number in place of {part}, as in {walked}.0")
            desc = detail[0]
        walked = f"{walked}.{part}".lstrip(".")
    kind, detail = desc
    if kind == Nodetype.NAME:
        fields = dict(types.fielddefs[detail][1])
        raise UserError(f"{walked} of {msgtype} is no number; its fields: {', '.join(fields)}")
    if kind != Nodetype.BASE:
        raise UserError(f"{walked} of {msgtype} is an array; add the number of an element, as in {walked}.0")
    if detail[0] not in NUMBERS:
        raise UserError(f"{walked} of {msgtype} is a {detail[0]}, expected a number")


class _Walk:
    """A pointer that moves through one message."""

    def __init__(self, types: Typestore, data: bytes, wanted: frozenset[str]) -> None:
        self.types, self.data, self.wanted = types, data, wanted
        self.order = "<" if data[1] else ">"
        self.at = START
        self.places: dict[str, Place] = {}
        self.texts: dict[str, str] = {}
        self.guards: list[tuple[int, bytes]] = [(0, data[:2])]

    def message(self, msgtype: str, path: str, wanted: frozenset[str] = frozenset()) -> None:
        missing = set(wanted)
        for name, (kind, detail) in self.types.fielddefs[msgtype][1]:
            self.field(kind, detail, path + name)
            missing.discard(name)
            if wanted and not missing:
                return

    def field(self, kind: Any, detail: Any, path: str) -> None:
        if kind == Nodetype.NAME:
            self.message(detail, f"{path}.")
        elif kind == Nodetype.BASE:
            self.items((kind, detail), 1, path, single=True)
        elif kind == Nodetype.ARRAY:
            self.items(detail[0], detail[1], path)
        else:
            self.items(detail[0], self.length(), path)

    def items(self, desc: Any, count: int, path: str, single: bool = False) -> None:
        kind, detail = desc
        if kind == Nodetype.NAME:
            for index in range(count):
                self.message(detail, f"{path}.{index}.")
        elif detail[0] == "string":
            for index in range(count):
                self.text(path if single else f"{path}.{index}")
        else:
            code = NUMBERS[detail[0]]
            size = int(code[1])
            if count:
                self.at += (START - self.at) % size
            if self.at + count * size > len(self.data):
                raise IndexError
            self.places[path] = Place(self.at, self.order + code, count)
            self.at += count * size

    def length(self) -> int:
        self.at += (START - self.at) % 4
        (length,) = struct.unpack_from(self.order + "I", self.data, self.at)
        self.guards.append((self.at, self.data[self.at : self.at + 4]))
        self.at += 4
        return int(length)

    def text(self, path: str) -> None:
        length = self.length()
        text = self.data[self.at : self.at + length]
        if not text.endswith(b"\0") or len(text) != length:
            raise IndexError
        if path.partition(".")[0] in self.wanted:
            self.texts[path] = text[:-1].decode()
            self.guards.append((self.at, text))
        self.at += length
