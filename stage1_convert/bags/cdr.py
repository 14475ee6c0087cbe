"""Serialized messages of one topic in, many at a time; their stamps and wanted numbers as arrays, out.

What to pick is found once for each layout (layout.py) and then read from all messages of that layout in one go.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.bags.cdr_layout import Layout, Place, check_path, find_layout
from stage1_convert.bags.storage import Bytes

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
COMMANDS = (JOINT_STATE, TRAJECTORY, ARRAY)
KEPT_LAYOUTS = 8

# Says where the wanted numbers stand; None: the message is not meant for us. Raises UserError when some are missing.
Pick = Callable[[Layout], list[Place] | None]


class FieldBatch(NamedTuple):
    """What a batch of messages says; a row of `values` (messages, numbers) is NaN where `faults` says why.

    `header_ns` is 0 where the type has no stamp. Rows that are not `ours` speak of something else.
    """

    header_ns: Int64
    values: Float64
    ours: npt.NDArray[np.bool_]
    faults: dict[int, str]


class _FieldLayout(NamedTuple):
    """How messages of one layout are read: the bytes they must share, and what to take from where."""

    guards: npt.NDArray[np.intp]
    expected: npt.NDArray[np.uint8]
    size: int
    stamp: tuple[Place, Place] | None
    picked: list[Place] | None
    fault: str | None


class Fields:
    """Reads the stamp and `width` numbers of every message of a type; `tops` are the top-level fields it looks into."""

    def __init__(self, types: Typestore, msgtype: str, tops: Sequence[str], width: int, pick: Pick) -> None:
        self._types, self._msgtype = types, msgtype
        self._width, self._pick = width, pick
        self._stamp = stamp_field(types, msgtype)
        self._tops = frozenset(tops)
        self._plans: list[_FieldLayout] = []

    @property
    def has_stamp(self) -> bool:
        """Tell whether messages of this type carry a stamp of their own."""
        return self._stamp is not None

    def read(self, batch: Sequence[Bytes]) -> FieldBatch:
        """Read a batch of CDR messages; what is wrong with one of them stands in the faults."""
        out = nothing(len(batch), self._width)
        todo = np.arange(len(batch))
        for plan in list(self._plans):
            todo = _apply(plan, batch, todo, out)
        while len(todo):
            try:
                plan = self._plan(bytes(batch[todo[0]]))
            except UserError as error:
                out.faults[int(todo[0])] = str(error)
                todo = todo[1:]
                continue
            self._plans = [plan, *self._plans[: KEPT_LAYOUTS - 1]]
            todo = _apply(plan, batch, todo, out)
        return out

    def _plan(self, data: bytes) -> _FieldLayout:
        layout = find_layout(self._types, self._msgtype, data, self._tops, self._stamp)
        picked, fault = None, None
        try:
            picked = self._pick(layout)
        except UserError as error:
            fault = str(error)
        stamp = None
        if self._stamp:
            stamp = layout.places[f"{self._stamp}.sec"], layout.places[f"{self._stamp}.nanosec"]
        needed = [*(stamp or ()), *(picked or [])]
        last = max((place.offset for place in needed), default=1)
        # What lies behind the last number decides nothing, unless the layout itself is the answer.
        guards = [(at, text) for at, text in layout.guards if picked is None or at <= last]
        places = np.array([at + index for at, text in guards for index in range(len(text))], np.intp)
        size = max(
            [0, *(int(at) + 1 for at in places[-1:]), *(place.offset + int(place.dtype[-1]) for place in needed)]
        )
        expected = np.frombuffer(b"".join(text for _, text in guards), np.uint8)
        return _FieldLayout(places, expected, size, stamp, picked, fault)


def _apply(
    plan: _FieldLayout, batch: Sequence[Bytes], todo: npt.NDArray[np.intp], out: FieldBatch
) -> npt.NDArray[np.intp]:
    """Read those messages of `todo` that the plan fits into `out`; return the others."""
    rows = [batch[index][: plan.size] for index in todo]
    joined = b"".join(rows)
    long = todo
    if len(joined) != plan.size * len(rows):
        fits = np.array([len(row) == plan.size for row in rows])
        long, joined = todo[fits], b"".join(row for row in rows if len(row) == plan.size)
    block = np.frombuffer(joined, np.uint8).reshape(len(long), plan.size)
    same = (block[:, plan.guards] == plan.expected).all(axis=1)
    found, block = long[same], block[same]
    if plan.stamp:
        seconds, nanoseconds = (_column(block, place).astype(np.int64) for place in plan.stamp)
        out.header_ns[found] = seconds * 1_000_000_000 + nanoseconds
    if plan.picked is None:
        out.ours[found] = plan.fault is not None
    else:
        out.values[found] = np.stack([_column(block, place) for place in plan.picked], axis=1) if plan.picked else 0
    if plan.fault:
        out.faults.update((int(index), plan.fault) for index in found)
    return np.setdiff1d(todo, found, assume_unique=True)


def _column(block: npt.NDArray[np.uint8], place: Place) -> npt.NDArray[Any]:
    size = int(place.dtype[-1])
    column: npt.NDArray[Any] = np.ascontiguousarray(block[:, place.offset : place.offset + size]).view(place.dtype)
    return column[:, 0]


def nothing(count: int, width: int = 0) -> FieldBatch:
    """Return what `count` messages say that are not looked into."""
    return FieldBatch(np.zeros(count, np.int64), np.full((count, width), np.nan), np.ones(count, np.bool_), {})


def stamp_field(types: Typestore, msgtype: str) -> str | None:
    """Return the path of the stamp that messages of this type carry, None when they carry none."""
    fields = {name: desc[1] for name, desc in types.fielddefs[msgtype][1]}
    if fields.get("header") == "std_msgs/msg/Header":
        return "header.stamp"
    return "timestamp" if fields.get("timestamp") == "builtin_interfaces/msg/Time" else None


def stamps(types: Typestore, msgtype: str) -> Fields:
    """Read nothing but the stamps of messages."""
    return Fields(types, msgtype, (), 0, lambda _: [])


@functools.lru_cache(maxsize=64)  # asked for every layout, and the names hardly ever change
def joint_columns(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int] | None:
    """Return where the `wanted` joints stand among `names`, None when the message is about other joints only.

    Raises UserError when some of the wanted joints are there and others are missing, or one is named twice.
    """
    if not set(wanted) & set(names):
        return None
    for joint in wanted:
        if names.count(joint) != 1:
            fault = "is missing" if joint not in names else "is named twice"
            raise UserError(f"joint {joint} {fault}; the message names {', '.join(names)}")
    return [names.index(joint) for joint in wanted]


def joint_state(types: Typestore, joints: tuple[str, ...], wanted: Sequence[str]) -> Fields:
    """Read the `wanted` ones of position, velocity and effort, all joints of the first, then all of the next."""

    def pick(layout: Layout) -> list[Place] | None:
        names = layout.names("name")
        columns = joint_columns(names, joints)
        if columns is None:
            return None
        picked = []
        for field in wanted:
            if field not in layout.places:
                raise UserError(f"the definition of {JOINT_STATE} that comes with the messages has no {field}")
            place = layout.places[field]
            if place.length != len(names):
                plural = {"velocity": "velocities"}.get(field, f"{field}s")
                raise UserError(f"{len(names)} joints are named and {place.length} {plural} given")
            picked += [place.one(column) for column in columns]
        return picked

    return Fields(types, JOINT_STATE, ("name", *wanted), len(joints) * len(wanted), pick)


def single(types: Typestore, msgtype: str, path: str) -> Fields:
    """Read one number by its path; raises UserError, naming the fields there are, when the type has none there."""
    check_path(types, msgtype, path)
    head, _, tail = path.rpartition(".")

    def pick(layout: Layout) -> list[Place]:
        if path in layout.places:
            return [layout.places[path]]
        numbers = layout.places.get(head)
        if numbers is None or int(tail) >= numbers.length:
            raise UserError(f"has no {path}: its {head or 'array'} is too short")
        return [numbers.one(int(tail))]

    return Fields(types, msgtype, (path.partition(".")[0],), 1, pick)


def command(types: Typestore, msgtype: str, joints: tuple[str, ...]) -> Fields:
    """Read the commanded position of every joint: by name, except from an array, which must be in their order."""
    if msgtype == JOINT_STATE:
        return joint_state(types, joints, ["position"])

    def pick_point(layout: Layout) -> list[Place] | None:
        names = layout.names("joint_names")
        columns = joint_columns(names, joints)
        if columns is None:
            return None
        positions = layout.places.get("points.0.positions")
        if positions is None or positions.length != len(names):
            given = positions.length if positions else "no point and no"
            raise UserError(f"{len(names)} joints are named and {given} positions given")
        return [positions.one(column) for column in columns]

    def pick_all(layout: Layout) -> list[Place]:
        data = layout.places["data"]
        if data.length != len(joints):
            raise UserError(f"holds {data.length} numbers, expected one for each of {', '.join(joints)}")
        return [data.one(index) for index in range(data.length)]

    if msgtype == TRAJECTORY:
        return Fields(types, msgtype, ("joint_names", "points"), len(joints), pick_point)
    return Fields(types, msgtype, ("data",), len(joints), pick_all)
