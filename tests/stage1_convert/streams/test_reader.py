"""What is wrong with a topic as a whole is said when its stream is read."""

from pathlib import Path

import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.bags.bag import open_bag
from stage1_convert.config import Config
from stage1_convert.images.video_topic import starts_video
from stage1_convert.streams.reader import read_streams
from stage1_convert.streams.stream import BagStreams
from tests.stage1_convert.recording import MS, START_NS, TYPES, RecordedMessage, Recording, cell

FLOAT = "std_msgs/msg/Float32"


def streams_of(tmp_path: Path, recording: Recording, *overrides: str) -> BagStreams:
    with open_bag(recording.write(tmp_path / "bag"), tmp_path, "humble") as bag:
        return read_streams(bag, load(Config, None, overrides), starts_video)


def test_velocities_that_are_not_published_are_a_fault(tmp_path: Path) -> None:
    velocities = "data.joint_fields=[position, velocity]"
    with pytest.raises(UserError, match=r"150 of the 150 messages .*: 6 joints are named and 0 velocities given"):
        streams_of(tmp_path, cell(), velocities)
    stream = streams_of(tmp_path / "refused", cell(), velocities, "data.bad_messages=refuse").streams["joints"]
    assert stream.faults[0].startswith("6 joints are named and 0 velocities given; data.joint_fields")


def test_header_time_of_a_type_without_a_stamp_is_refused(tmp_path: Path) -> None:
    recording = cell()
    values = (TYPES.types[FLOAT](float(n)) for n in range(9))
    recording.others = [RecordedMessage(START_NS + n * MS, "/gripper", FLOAT, value) for n, value in enumerate(values)]
    settings = "data.state_fields={grip: '/gripper:data'}", "data.time_source_by_stream={grip: header}"
    with pytest.raises(UserError, match="/gripper: std_msgs/msg/Float32 has no stamp"):
        streams_of(tmp_path, recording, *settings)


def test_a_bag_without_a_message_is_reported_as_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: it holds no message"):
        streams_of(tmp_path, Recording())
