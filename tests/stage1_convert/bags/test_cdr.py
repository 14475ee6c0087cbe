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
from common.cli.config import load
from stage1_convert.align.joint_fields import command_reader, joint_state_reader
from stage1_convert.align.streams import BagStreams, read_streams
from stage1_convert.bags import cdr_layout
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.cdr import FieldBatch, number_reader
from stage1_convert.bags.cdr_layout import NUMBERS, MessageLayout, Offset, check_path, find_layout
from stage1_convert.config import Config
from stage1_convert.images.video_topic import starts_video
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINT_TOPIC,
    JOINTS,
    MS,
    START_NS,
    TYPES,
    Recording,
    Said,
    cell,
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
    """Say what one message gives, the slow way; None when it cannot give all of it."""
    row = []
    for field in wanted:
        values = getattr(message, field)
        if len(values) != len(message.name) or not set(joints) <= set(message.name):
            return None
        row += [values[message.name.index(joint)] for joint in joints]
    return row


@settings(max_examples=60, deadline=None)
@given(st.lists(joint_states(), min_size=1, max_size=40), st.booleans())
def test_joint_states_are_read_in_batches_as_rosbags_reads_each(messages: list[Any], little: bool) -> None:
    joints, wanted = ("gripper", "a"), ["position", "effort"]
    data = [bytes(TYPES.serialize_cdr(message, JOINT_STATE, little_endian=little)) for message in messages]
    found = joint_state_reader(TYPES, joints, wanted).read(data)
    for at, serialized in enumerate(data):
        message: Any = TYPES.deserialize_cdr(serialized, JOINT_STATE)
        assert found.relevant[at] == bool(set(joints) & set(message.name))
        assert found.header_ns[at] == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        row = expected(message, joints, wanted)
        assert (at in found.faults) == (row is None and found.relevant[at])
        assert np.array_equal(found.values[at], [np.nan] * 4 if row is None else row, equal_nan=True)


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
    assert found.faults == {1: "has no data.1: its data is too short"}
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


def trajectory(names: list[str], *points: list[float]) -> Any:
    none = np.zeros(0)
    time = TYPES.types["builtin_interfaces/msg/Duration"](0, 0)
    return make(
        TRAJECTORY,
        header(START_NS),
        names,
        [make(POINT, np.asarray(at, np.float64), none, none, none, time) for at in points],
    )


def test_of_a_trajectory_the_first_point_is_the_command_by_joint_name() -> None:
    messages = [
        trajectory(["b", "a"], [1, 2], [3, 4]),
        trajectory(["a", "b"], [5, 6]),
        trajectory(["x"], [0]),
        trajectory(["a", "b"]),
        trajectory(["a"], [1]),
    ]
    data = [bytes(TYPES.serialize_cdr(message, TRAJECTORY)) for message in messages]
    found = command_reader(TYPES, TRAJECTORY, ("a", "b")).read(data)
    assert found.values[:2].tolist() == [[2.0, 1.0], [5.0, 6.0]]
    assert found.relevant.tolist() == [True, True, False, True, True]
    assert found.faults == {
        3: "2 joints are named and no point and no positions given",
        4: "joint b is missing; the message names a",
    }


def test_an_array_of_commands_has_one_number_for_each_joint() -> None:
    data = [bytes(TYPES.serialize_cdr(message, ARRAY)) for message in (array(1, 2), array(1, 2, 3))]
    found = command_reader(TYPES, ARRAY, ("a", "b")).read(data)
    assert found.values[0].tolist() == [1.0, 2.0]
    assert found.faults == {1: "holds 3 numbers, expected one for each of a, b"}


def tape_of(tmp_path: Path, recording: Recording, *overrides: str) -> BagStreams:
    bag = recording.write(tmp_path / "bag")
    with open_bag(bag, tmp_path, "humble") as opened:
        return read_streams(opened, load(Config, None, overrides), starts_video)


def test_all_streams_stand_on_the_tape(tmp_path: Path) -> None:
    recording = cell()
    for at in range(40):
        receive_ns = START_NS + at * 30 * MS
        recording.others += [
            Said(receive_ns, "/wrench", WRENCH, wrench(float(at))),
            Said(receive_ns + 1, "/gripper", FLOAT, make(FLOAT, at / 2)),
            Said(receive_ns + 2, "/goal", ARRAY, array(*range(at, at + 6))),
        ]
    recording.others.append(Said(START_NS + 500 * MS, "/marker", "std_msgs/msg/Empty", make("std_msgs/msg/Empty")))
    tape = tape_of(
        tmp_path,
        recording,
        "data.state_fields={fz: '/wrench:wrench.force.z', grip: '/gripper:data', x: '/wrench:wrench.force.x'}",
        "data.command_topic=/goal",
        "conventions.action=command",
        "data.split_topic=/marker",
    )
    assert list(tape.streams) == ["joints", "color", "fz", "grip", "x", "command"]
    assert tape.streams["fz"].values[:, 0].tolist() == list(range(40))
    assert tape.streams["x"].values[:, 0].tolist() == [1.0] * 40
    assert tape.streams["grip"].values[:, 0].tolist() == [at / 2 for at in range(40)]
    assert tape.streams["grip"].clock.reason == "std_msgs/msg/Float32 has no stamp"
    assert tape.streams["command"].values[39].tolist() == list(range(39, 45))
    assert tape.streams["joints"].values.shape == (150, 6)
    assert {name: stream.read for name, stream in tape.streams.items()} == {
        "joints": 150,
        "color": 45,
        "fz": 40,
        "grip": 40,
        "x": 40,
        "command": 40,
    }
    assert tape.markers_ns.tolist() == [START_NS + 500 * MS]


def test_velocity_and_effort_follow_the_positions(tmp_path: Path) -> None:
    recording = cell()
    for at, said in enumerate(recording.joints):
        numbers = np.arange(6) + at
        message = joint_state(list(reversed(JOINTS)), numbers, numbers * 10, numbers * 100)
        recording.joints[at] = said._replace(message=message)
    values = tape_of(tmp_path, recording, "data.joint_fields=[position, effort]").streams["joints"].values
    assert values.shape == (150, 12)
    assert values[7].tolist() == [12, 11, 10, 9, 8, 7, 1200, 1100, 1000, 900, 800, 700]


def test_velocities_that_are_not_published_are_a_fault(tmp_path: Path) -> None:
    stream = tape_of(tmp_path, cell(), "data.joint_fields=[position, velocity]").streams["joints"]
    assert stream.faults[0] == "6 joints are named and 0 velocities given"


def test_messages_about_other_joints_are_not_ours_and_keep_their_numbers(tmp_path: Path) -> None:
    recording = cell()
    for at in range(0, 150, 3):
        recording.joints[at] = recording.joints[at]._replace(message=joint_state(["finger"], [1.0], [], []))
    stream = tape_of(tmp_path, recording).streams["joints"]
    assert stream.read == 150
    assert stream.numbers.tolist() == [at for at in range(150) if at % 3]
    assert not stream.faults


def test_a_state_field_of_a_topic_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no topic /wrench; its topics: .*{JOINT_TOPIC}"):
        tape_of(tmp_path, cell(), "data.state_fields={fz: '/wrench:wrench.force.z'}")


def test_a_header_clock_that_is_demanded_of_a_type_without_one_is_refused(tmp_path: Path) -> None:
    recording = cell()
    recording.others = [Said(START_NS + at * MS, "/gripper", FLOAT, make(FLOAT, at)) for at in range(9)]
    with pytest.raises(UserError, match="/gripper: std_msgs/msg/Float32 has no stamp"):
        tape_of(
            tmp_path,
            recording,
            "data.state_fields={grip: '/gripper:data'}",
            "data.time_source_by_stream={grip: header}",
        )


def test_a_bag_without_a_message_is_reported_as_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: it holds no message"):
        tape_of(tmp_path, Recording())
