"""Every stream of a bag is read whole, by the topic and the fields that the config names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.align.stream_reader import read_streams
from stage1_convert.align.streams import BagStreams
from stage1_convert.bags.bag import open_bag
from stage1_convert.config import Config
from stage1_convert.images.video_topic import starts_video
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINTS,
    MS,
    START_NS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
)
from tests.stage1_convert.recording import header as header_at

FLOAT, ARRAY, EMPTY = "std_msgs/msg/Float32", "std_msgs/msg/Float64MultiArray", "std_msgs/msg/Empty"
WRENCH = "geometry_msgs/msg/WrenchStamped"


def make(name: str, *values: Any) -> Any:
    return TYPES.types[name](*values)


def joint_state(names: list[str], *numbers: Any) -> Any:
    return make(JOINT_STATE, header_at(5), names, *(np.asarray(values, np.float64) for values in numbers))


def streams_of(tmp_path: Path, recording: Recording, *overrides: str) -> BagStreams:
    with open_bag(recording.write(tmp_path / "bag"), tmp_path, "humble") as bag:
        return read_streams(bag, load(Config, None, overrides), starts_video)


def test_every_stream_is_read(tmp_path: Path) -> None:
    recording, vector, layout = cell(), "geometry_msgs/msg/Vector3", make("std_msgs/msg/MultiArrayLayout", [], 0)
    for n in range(40):
        receive_ns, force = START_NS + n * 30 * MS, make(vector, 1.0, 2.0, float(n))
        wrench = make("geometry_msgs/msg/Wrench", force, make(vector, 4.0, 5.0, 6.0))
        recording.others += [
            RecordedMessage(receive_ns, "/wrench", WRENCH, make(WRENCH, header_at(START_NS), wrench)),
            RecordedMessage(receive_ns + 1, "/gripper", FLOAT, make(FLOAT, n / 2)),
            RecordedMessage(receive_ns + 2, "/goal", ARRAY, make(ARRAY, layout, np.arange(n, n + 6.0))),
        ]
    recording.others.append(RecordedMessage(START_NS + 500 * MS, "/marker", EMPTY, make(EMPTY)))
    streams, markers_ns = streams_of(
        tmp_path,
        recording,
        "data.state_fields={fz: '/wrench:wrench.force.z', grip: '/gripper:data', x: '/wrench:wrench.force.x'}",
        "data.command_topic=/goal",
        "conventions.action=command",
        "data.split_topic=/marker",
    )
    counts = {"joints": 150, "color": 45, "fz": 40, "grip": 40, "x": 40, "command": 40}
    assert {name: stream.read for name, stream in streams.items()} == counts
    assert streams["fz"].values[:, 0].tolist() == list(range(40))
    assert streams["x"].values[:, 0].tolist() == [1.0] * 40
    assert streams["grip"].values[:, 0].tolist() == [n / 2 for n in range(40)]
    assert streams["grip"].clock.reason == "std_msgs/msg/Float32 has no stamp"
    assert streams["command"].values[39].tolist() == list(range(39, 45))
    assert streams["joints"].values.shape == (150, 6)
    assert markers_ns.tolist() == [START_NS + 500 * MS]


def test_velocity_and_effort_follow_the_positions(tmp_path: Path) -> None:
    recording = cell()
    for n, said in enumerate(recording.joints):
        numbers = np.arange(6) + n
        message = joint_state(list(reversed(JOINTS)), numbers, numbers * 10, numbers * 100)
        recording.joints[n] = said._replace(message=message)
    values = streams_of(tmp_path, recording, "data.joint_fields=[position, effort]").streams["joints"].values
    assert values.shape == (150, 12)
    assert values[7].tolist() == [12, 11, 10, 9, 8, 7, 1200, 1100, 1000, 900, 800, 700]


def test_velocities_that_are_not_published_are_a_fault(tmp_path: Path) -> None:
    velocities = "data.joint_fields=[position, velocity]"
    with pytest.raises(UserError, match=r"150 of the 150 messages .*: 6 joints are named and 0 velocities given"):
        streams_of(tmp_path, cell(), velocities)
    stream = streams_of(tmp_path / "refused", cell(), velocities, "data.bad_messages=refuse").streams["joints"]
    assert stream.faults[0].startswith("6 joints are named and 0 velocities given; data.joint_fields")


def test_messages_about_other_joints_are_no_samples_and_keep_their_numbers(tmp_path: Path) -> None:
    recording = cell()
    for n in range(0, 150, 3):
        recording.joints[n] = recording.joints[n]._replace(message=joint_state(["finger"], [1.0], [], []))
    stream = streams_of(tmp_path, recording).streams["joints"]
    assert stream.read == 150
    assert stream.numbers.tolist() == [n for n in range(150) if n % 3]
    assert not stream.faults


def test_header_time_of_a_type_without_a_stamp_is_refused(tmp_path: Path) -> None:
    recording = cell()
    recording.others = [RecordedMessage(START_NS + n * MS, "/gripper", FLOAT, make(FLOAT, n)) for n in range(9)]
    settings = "data.state_fields={grip: '/gripper:data'}", "data.time_source_by_stream={grip: header}"
    with pytest.raises(UserError, match="/gripper: std_msgs/msg/Float32 has no stamp"):
        streams_of(tmp_path, recording, *settings)
