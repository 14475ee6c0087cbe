"""Message types of one's own are read by the .msg files that data.msg_paths names."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from common.cli.command import UserError
from stage1_convert.bags.message_files import read_message_files
from stage1_convert.pipeline.convert import RefusedError
from tests.stage1_convert.conversion import rows, run
from tests.stage1_convert.recording import HEADER, MS, START_NS, TIME, TYPES, cell

STATE, WIDTH = "my_gripper_msgs/msg/State", "my_gripper_msgs/msg/Width"
STATE_TEXT = "std_msgs/Header header\nWidth width\nbool grasped\nstring note\n"
WIDTH_TEXT = "# in meters\nfloat64 value\n"
FIELDS = "data.state_fields={gripper: '/gripper:width.value', grasped: '/gripper:grasped'}"


def write_bag(folder: Path) -> None:
    """Write a bag as Humble does: its sqlite file defines no type."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(STATE_TEXT, STATE) | get_types_from_msg(WIDTH_TEXT, WIDTH))
    recording = cell()
    with Writer(folder, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for stream in (recording.joints, recording.images):
            connection = writer.add_connection(stream[0].topic, stream[0].type, typestore=types)
            for said in stream:
                writer.write(connection, said.receive_ns, TYPES.serialize_cdr(said.message, said.type))
        connection = writer.add_connection("/gripper", STATE, typestore=types)
        for number in range(75):
            stamp_ns = START_NS + number * 20 * MS
            header = HEADER(stamp=TIME(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")
            message = types.types[STATE](header, types.types[WIDTH](number / 1000), number > 30, "ok")
            writer.write(connection, stamp_ns + MS, types.serialize_cdr(message, STATE))
    with sqlite3.connect(folder / f"{folder.name}.db3") as database:
        database.execute("DROP TABLE message_definitions")


def write_package(folder: Path) -> Path:
    """Write the definitions as a ROS package has them."""
    (folder / "my_gripper_msgs" / "msg").mkdir(parents=True)
    (folder / "my_gripper_msgs" / "msg" / "State.msg").write_text(STATE_TEXT)
    (folder / "my_gripper_msgs" / "msg" / "Width.msg").write_text(WIDTH_TEXT)
    return folder


def test_without_its_definition_a_type_is_refused_with_the_setting_that_defines_it(tmp_path: Path) -> None:
    write_bag(tmp_path / "src" / "bag")
    with pytest.raises(RefusedError, match=r"set data\.msg_paths to the folder with State\.msg"):
        run(tmp_path / "src", tmp_path / "out", FIELDS)
    (tmp_path / "msgs").mkdir()
    (tmp_path / "msgs" / "State.msg").write_text(STATE_TEXT)
    with pytest.raises(RefusedError, match=rf"{WIDTH}, which is part of them.*add its folder to data\.msg_paths"):
        run(tmp_path / "src", tmp_path / "out", FIELDS, f"data.msg_paths=['{tmp_path / 'msgs'}']")


@pytest.mark.parametrize("given", ["workspace", "workspace/my_gripper_msgs", "workspace/my_gripper_msgs/msg", "loose"])
def test_a_type_is_read_by_its_msg_files(tmp_path: Path, given: str) -> None:
    write_bag(tmp_path / "src" / "bag")
    package = write_package(tmp_path / "workspace") / "my_gripper_msgs" / "msg"
    (tmp_path / "loose").mkdir()
    for file in package.iterdir():
        (tmp_path / "loose" / file.name).write_text(file.read_text())
    run(tmp_path / "src", tmp_path / "out", FIELDS, f"data.msg_paths=['{tmp_path / given}']")
    state = np.stack(rows(tmp_path / "out")["observation.state"])
    assert len(state) > 30
    assert (np.diff(state[:, 6]) >= 0).all()
    assert state[-1, 6] > 0.05
    np.testing.assert_array_equal(state[:, 7], (state[:, 6] * 1000).round() > 30)


def test_other_content_of_a_msg_file_converts_the_bags_again(tmp_path: Path) -> None:
    write_bag(tmp_path / "src" / "bag")
    for name in ("one", "moved", "changed"):
        write_package(tmp_path / name)
    (tmp_path / "changed" / "my_gripper_msgs" / "msg" / "Width.msg").write_text("# in millimeters\nfloat64 value\n")
    reused = [
        run(tmp_path / "src", tmp_path / "out", FIELDS, f"data.msg_paths=['{tmp_path / name}']").reused
        for name in ("one", "moved", "changed")
    ]
    assert reused == [0, 1, 0]


def test_paths_without_definitions_or_with_two_of_one_type_are_refused(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"data\.msg_paths: .* holds no \.msg file; give a ROS package"):
            read_message_files((str(missing),))
    write_package(tmp_path / "a")
    write_package(tmp_path / "b")
    assert len(read_message_files((str(tmp_path / "a"), str(tmp_path / "b")))) == 2
    (tmp_path / "c" / "my_gripper_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "c" / "my_gripper_msgs" / "msg" / "Width.msg").write_text("float32 value\n")
    with pytest.raises(UserError, match="define Width differently; give only one"):
        read_message_files((str(tmp_path / "a"), str(tmp_path / "c")))
