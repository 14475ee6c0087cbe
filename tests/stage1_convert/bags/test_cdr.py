"""Fields read in batches are those that rosbags reads one by one, and none is made up where it is missing."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.interfaces import Nodetype

from common.cli.command import UserError
from stage1_convert.bags import cdr_layout
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.cdr import FieldBatch, number_reader
from stage1_convert.bags.cdr_layout import NUMBERS, MessageLayout, Offset, check_path, find_layout
from stage1_convert.streams.joint_fields import joint_state_reader
from tests.stage1_convert.recording import (
    JOINT_STATE,
    START_NS,
    TYPES,
    header,
)

WRENCH, FLOAT, ARRAY = "geometry_msgs/msg/WrenchStamped", "std_msgs/msg/Float32", "std_msgs/msg/Float64MultiArray"
TRAJECTORY, POINT = "trajectory_msgs/msg/JointTrajectory", "trajectory_msgs/msg/JointTrajectoryPoint"
SHARED = Path(__file__).parents[3].parent / "shared" / "bags"


def make(name: str, *values: Any) -> Any:
    return TYPES.types[name](*values)


def joint_state(names: list[str], *numbers: Any, stamp_ns: int = 5, frame: str = "base") -> Any:
    head = header(stamp_ns)
    head.frame_id = frame
    return make(JOINT_STATE, head, names, *(np.asarray(values, np.float64) for values in numbers))


def test_the_example_of_the_documentation_is_laid_out_as_it_says() -> None:
    message = joint_state(["a"], [0.5], [], [], stamp_ns=10**9 + 500, frame="b")
    lines = re.findall(r"^ {4}(\d+) +((?:[0-9a-f]{2} {1,2})+)", str(cdr_layout.__doc__), re.MULTILINE)
    written = b"".join(bytes.fromhex(text) for _, text in lines)
    assert [int(offset) for offset, _ in lines][-1] == 48
    assert bytes(TYPES.serialize_cdr(message, JOINT_STATE)) == written
    layout = find_layout(TYPES, JOINT_STATE, written, frozenset({"name", "position"}), "header.stamp")
    assert layout == MessageLayout(
        {
            "header.stamp.sec": Offset(4, "<i4", 1),
            "header.stamp.nanosec": Offset(8, "<u4", 1),
            "position": Offset(36, "<f8", 1),
        },
        {"name.0": "a"},
        [(at, written[at : at + size]) for at, size in ((0, 2), (12, 4), (20, 4), (24, 4), (28, 2), (32, 4))],
    )


@st.composite
def joint_states(draw: st.DrawFn) -> Any:
    """A JointState as drivers publish it: some joints, in some order, with or without velocities and efforts."""
    names = draw(st.permutations(["a", "joint_b", "c" * draw(st.integers(1, 5)), "gripper"]))[: draw(st.integers(0, 4))]
    lengths = [draw(st.sampled_from([len(names), len(names), 0, 3])) for _ in range(3)]
    numbers = [draw(st.lists(st.floats(width=64), min_size=size, max_size=size)) for size in lengths]
    return joint_state(
        list(names),
        *numbers,
        stamp_ns=draw(st.integers(0, 2**31 * 10**9 - 1)),
        frame=draw(st.sampled_from(["", "base"])),
    )


def expected(message: Any, joints: tuple[str, ...], wanted: list[str]) -> list[float] | None:
    """Say what one message gives, the slow way: NaN for a joint it does not name; None when it is not whole."""
    if len(message.name) == 0:
        return None
    row = []
    for field in wanted:
        values = getattr(message, field)
        if len(values) != len(message.name):
            return None
        row += [values[message.name.index(joint)] if joint in message.name else np.nan for joint in joints]
    return row


@settings(max_examples=60, deadline=None)
@given(st.lists(joint_states(), min_size=1, max_size=40), st.booleans())
def test_joint_states_are_read_in_batches_as_rosbags_reads_each(messages: list[Any], little: bool) -> None:
    joints, wanted = ("gripper", "a"), ["position", "effort"]
    data = [bytes(TYPES.serialize_cdr(message, JOINT_STATE, little_endian=little)) for message in messages]
    reader = joint_state_reader(TYPES, joints, wanted)
    found = reader.read(data)
    for at, serialized in enumerate(data):
        message: Any = TYPES.deserialize_cdr(serialized, JOINT_STATE)
        assert found.relevant[at] == (bool(set(joints) & set(message.name)) or len(message.name) == 0)
        assert found.header_ns[at] == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        row = expected(message, joints, wanted)
        assert (at in found.faults) == (row is None and found.relevant[at])
        assert np.array_equal(found.values[at], [np.nan] * 4 if row is None else row, equal_nan=True)
        assert reader.labels[found.labels[at]] == tuple(message.name)


def leaves(message: Any, msgtype: str, types: Any, path: str = "") -> dict[str, Any]:
    """Return every number and number array of a message by its path, found by walking rosbags' objects."""
    found: dict[str, Any] = {}
    for name, (kind, detail) in types.fielddefs[msgtype][1]:
        value, here = getattr(message, name), f"{path}{name}"
        if kind == Nodetype.NAME:
            found |= leaves(value, detail, types, f"{here}.")
        elif kind == Nodetype.BASE:
            found |= {here: [value]} if detail[0] in NUMBERS else {}
        elif detail[0][0] == Nodetype.NAME:
            for at, item in enumerate(value):
                found |= leaves(item, detail[0][1], types, f"{here}.{at}.")
        elif detail[0][1][0] in NUMBERS:
            found[here] = value
    return found


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/bags (real public bags)")
@pytest.mark.parametrize("name", ["ritsrs_all_types_mcap", "eyantra24", "cougars_so_mcap"])
def test_every_number_of_every_type_is_found_where_rosbags_finds_it(name: str, tmp_path: Path) -> None:
    compared = 0
    with open_bag(SHARED / name, tmp_path, "humble") as bag:
        for record in list(bag.records(bag.topics))[:300]:
            types, msgtype = bag.types(record.topic), bag.topics[record.topic].type
            tops = frozenset(name for name, _ in types.fielddefs[msgtype][1])
            layout = find_layout(types, msgtype, bytes(record.data), tops, None)
            truth = leaves(bag.deserialize(record.topic, record.data), msgtype, types)
            assert layout.offsets.keys() == truth.keys()
            for path, place in layout.offsets.items():
                values = np.frombuffer(record.data, place.dtype, place.length, place.start)
                assert np.array_equal(
                    values, np.asarray(truth[path], place.dtype), equal_nan=values.dtype.kind == "f"
                ), path
                compared += place.length
    assert compared > 100


def read(path: str, msgtype: str, *messages: Any) -> FieldBatch:
    data = [bytes(TYPES.serialize_cdr(message, msgtype)) for message in messages]
    return number_reader(TYPES, msgtype, path).read(data)


def wrench(z: float, frame: str = "tool") -> Any:
    head = header(START_NS)
    head.frame_id = frame
    vector = "geometry_msgs/msg/Vector3"
    return make(WRENCH, head, make("geometry_msgs/msg/Wrench", make(vector, 1.0, 2.0, z), make(vector, 4.0, 5.0, 6.0)))


def array(*values: float) -> Any:
    return make(ARRAY, make("std_msgs/msg/MultiArrayLayout", [], 0), np.asarray(values, np.float64))


def test_a_number_is_read_by_its_path_whatever_stands_before_it() -> None:
    found = read("wrench.force.z", WRENCH, wrench(3.0), wrench(-1.5, "a longer frame"), wrench(7.0, ""))
    assert found.values[:, 0].tolist() == [3.0, -1.5, 7.0]
    assert found.header_ns.tolist() == [START_NS] * 3
    assert read("data", FLOAT, make(FLOAT, 0.25)).values.tolist() == [[0.25]]
    assert read("data.1", ARRAY, array(1, 2), array(3, 4, 5)).values.tolist() == [[2.0], [4.0]]


def test_an_array_too_short_in_one_message_is_a_fault_of_that_message() -> None:
    found = read("data.1", ARRAY, array(1, 2), array(3), array(5, 6))
    assert found.faults == {1: "has no data.1: its data holds 1 numbers"}
    assert found.values[[0, 2], 0].tolist() == [2.0, 6.0]
    assert np.isnan(found.values[1, 0])


@pytest.mark.parametrize("cut", [3, 30, 90])
def test_a_message_that_is_cut_off_is_a_fault_of_that_message(cut: int) -> None:
    data = bytes(TYPES.serialize_cdr(joint_state(list("abcdef"), range(6), range(6), range(6)), JOINT_STATE))
    found = joint_state_reader(TYPES, ("a", "f"), ["position"]).read([data, data[:cut], data])
    assert list(found.faults) == [1]
    assert found.values[[0, 2]].tolist() == [[0, 5], [0, 5]]
    assert np.isnan(found.values[1]).all()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("wrench.force.w", "wrench.force of geometry_msgs/msg/WrenchStamped has no field w; its fields: x, y, z"),
        ("force", "geometry_msgs/msg/WrenchStamped has no field force; its fields: header, wrench"),
        ("wrench.force", "is not a number; its fields: x, y, z"),
        ("wrench.force.x.y", "is one float64 and has no field y"),
        ("header.frame_id", "is a string, expected a number"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_fields_there_are(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_path(TYPES, WRENCH, path)


@pytest.mark.parametrize(
    ("path", "words"), [("data", "add the number of an element"), ("data.x", "expected a number in place of x")]
)
def test_a_path_to_an_array_asks_for_an_element(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_path(TYPES, ARRAY, path)
