"""A topic is not a publisher: joints are joined by name over messages, and commands come in many ways."""

from pathlib import Path

import numpy as np
import pytest

from common.lerobot.dataset import Dataset
from common.storage.files import read_json
from stage1_convert.check import check
from tests.recordings.publishers import (
    ARRAY_TOPIC,
    FINGER,
    LEADER_TOPIC,
    TWIST_TOPIC,
    commands_of_many_kinds,
    gripper_in_the_arms_message,
    gripper_with_publisher_of_its_own,
    zeros_beside_the_arm,
)
from tests.stage1_convert.conversion import actions_of, convert_one, reason, report, rows, sources_of, states_of
from tests.stage1_convert.recording import JOINT_TOPIC, JOINTS, MS, START_NS, TYPES, joint_state, stamp_of

SEVEN = f"conventions.joint_order=[{', '.join(JOINTS)}, {FINGER}]"
COMMAND = "conventions.action=command"


def newest_opening(tick_ns: int, hz: int) -> float:
    """Return what the gripper last said before a tick."""
    number = (tick_ns - START_NS - 3 * MS) * hz // 10**9
    return (3 * MS + number * 10**9 // hz) / 1e10


@pytest.mark.parametrize("rule", ["hold", "linear"])
def test_arm_and_gripper_in_messages_of_their_own_have_each_their_newest_value(tmp_path: Path, rule: str) -> None:
    recording = gripper_with_publisher_of_its_own()
    dataset = convert_one(tmp_path, recording, SEVEN, f"data.resample_by_stream={{joints: {rule}}}")
    ticks_ns = sources_of(dataset)["tick_ns"].to_numpy()
    exact = (ticks_ns - START_NS) / 1e10
    expected = exact if rule == "linear" else [newest_opening(int(tick_ns), 50) for tick_ns in ticks_ns]
    np.testing.assert_allclose(states_of(dataset)[:, 6], expected, rtol=0, atol=1e-6)
    if rule == "hold":
        stamps_ns = [stamp_of(said) for said in recording.joints]
        newest = [recording.joints[at - 1].message for at in np.searchsorted(stamps_ns, ticks_ns, side="right")]
        angles = [[message.position[message.name.index(joint)] for joint in JOINTS] for message in newest]
        np.testing.assert_array_equal(states_of(dataset)[:, :6], np.array(angles, np.float32))
    bag = report(dataset)["bags"][0]
    assert bag["warnings"] == []
    assert {"joints", f"joints.{FINGER}"} <= bag["clock"].keys() & report(dataset)["streams"].keys()
    assert check(dataset).findings == []


def test_a_slow_gripper_has_a_limit_of_its_own(tmp_path: Path) -> None:
    recording = gripper_with_publisher_of_its_own(hz=2)
    assert f"joints.{FINGER}" in reason(tmp_path, recording, SEVEN)
    settings = SEVEN, f"data.max_age_ms_by_stream={{joints.{FINGER}: 600}}", "data.sync_columns=true"
    dataset = convert_one(tmp_path / "slow", recording, *settings)
    ticks_ns = sources_of(dataset)["tick_ns"]
    expected = [newest_opening(int(tick_ns), 2) for tick_ns in ticks_ns]
    np.testing.assert_allclose(states_of(dataset)[:, 6], expected, rtol=0, atol=1e-6)
    (episode,) = report(dataset)["bags"][0]["episodes"]
    assert 450 < episode["age_ms"][f"joints.{FINGER}"]["max"] <= 500
    assert episode["age_ms"]["joints"]["max"] < 15
    assert rows(dataset)["sync.joints_age_ms"].max() > 450


def test_an_arm_that_falls_silent_is_a_gap_however_long_the_gripper_may_hold(tmp_path: Path) -> None:
    recording = gripper_with_publisher_of_its_own()
    del recording.joints[100:150]
    dataset = convert_one(tmp_path, recording, SEVEN, f"data.max_age_ms_by_stream={{joints.{FINGER}: 60000}}")
    (gap,) = report(dataset)["bags"][0]["gaps"]
    assert gap["streams"] == ["joints"]


@pytest.mark.parametrize("path", ["position.finger_joint", "position[finger_joint]"])
@pytest.mark.parametrize("own", [True, False])
def test_a_joint_state_is_read_by_the_name_of_a_joint(tmp_path: Path, path: str, own: bool) -> None:
    recording = gripper_with_publisher_of_its_own() if own else gripper_in_the_arms_message()
    dataset = convert_one(tmp_path, recording, f"data.state_fields={{gripper: '{JOINT_TOPIC}:{path}'}}")
    traced = sources_of(dataset)
    if own:
        expected = [newest_opening(int(tick_ns), 50) for tick_ns in traced["tick_ns"]]
    else:
        expected = (traced["gripper.message"] / 1000).tolist()
    np.testing.assert_allclose(states_of(dataset)[:, 6], expected, rtol=0, atol=1e-6)


def test_a_name_that_is_a_number_is_read_in_brackets(tmp_path: Path) -> None:
    recording = gripper_in_the_arms_message()
    for number, said in enumerate(recording.joints):
        names = [*said.message.name[:-1], "7"]
        recording.joints[number] = said._replace(message=joint_state(stamp_of(said), names, said.message.position))
    dataset = convert_one(tmp_path, recording, f"data.state_fields={{gripper: '{JOINT_TOPIC}:position[7]'}}")
    np.testing.assert_allclose(states_of(dataset)[:, 6], sources_of(dataset)["gripper.message"] / 1000, atol=1e-6)


def test_a_joint_by_index_is_refused_where_it_is_another_one_in_some_messages(tmp_path: Path) -> None:
    field = f"data.state_fields={{gripper: '{JOINT_TOPIC}:position.0'}}"
    text = reason(tmp_path, gripper_with_publisher_of_its_own(), field)
    assert "position.0 is joint shoulder_lift_joint in some messages and joint finger_joint in others" in text
    assert "position.finger_joint" in text
    last = field.replace("position.0", "position.6")
    dataset = convert_one(tmp_path / "same", gripper_in_the_arms_message(), last)
    np.testing.assert_allclose(states_of(dataset)[:, 6], sources_of(dataset)["gripper.message"] / 1000, atol=1e-6)


def test_a_name_that_no_message_has_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    text = reason(tmp_path, gripper_in_the_arms_message(), f"data.state_fields={{x: '{JOINT_TOPIC}:position.thumb'}}")
    assert f"topic {JOINT_TOPIC} holds no message that holds {JOINT_TOPIC}:position.thumb" in text
    assert "they name shoulder_lift_joint" in text


@pytest.mark.parametrize("names", [None, sorted(JOINTS)])
def test_two_publishers_of_the_same_joints_that_contradict_each_other_are_refused(
    tmp_path: Path, names: list[str] | None
) -> None:
    text = reason(tmp_path, zeros_beside_the_arm(names=names))
    assert f"topic {JOINT_TOPIC}: two publishers contradict each other about shoulder_pan_joint" in text
    assert "between 150 messages of one and 15 of the other" in text
    assert "data.max_joint_speed_rad_s=30" in text


def test_two_publishers_of_commands_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    recording = commands_of_many_kinds()
    commands = [said for said in recording.others if said.topic == ARRAY_TOPIC]
    for said in commands[::10]:
        message = TYPES.types[said.type](said.message.layout, np.zeros(6, np.float32))
        recording.others.append(said._replace(receive_ns=said.receive_ns + 4 * MS, message=message))
    text = reason(tmp_path, recording, f"data.command_topic={ARRAY_TOPIC}", COMMAND)
    assert f"topic {ARRAY_TOPIC}: two publishers contradict each other about shoulder_pan_joint" in text
    assert "between 150 messages of one and 15 of the other" in text


def test_vectors_of_one_number_are_stored_as_plain_numbers_as_lerobot_does(tmp_path: Path) -> None:
    paths = f"data.action_paths={{vz: '{TWIST_TOPIC}:twist.linear.z'}}"
    settings = paths, COMMAND, "conventions.joint_order=[elbow_joint]"
    dataset = convert_one(tmp_path, commands_of_many_kinds(), *settings)
    found = rows(dataset)
    np.testing.assert_allclose(found["action"], sources_of(dataset)["vz.message"] / 100, atol=1e-6)
    assert check(dataset).findings == []
    opened = Dataset.open(dataset)
    for key, values in opened.columns(["observation.state", "action"]).items():
        assert values.shape == (len(found), 1)
        np.testing.assert_array_equal(values[:, 0], found[key])


def test_a_leader_arms_joints_are_called_otherwise(tmp_path: Path) -> None:
    settings = f"data.command_topic={LEADER_TOPIC}", COMMAND
    text = reason(tmp_path, commands_of_many_kinds(), *settings)
    assert "they name leader_shoulder_lift_joint" in text
    assert "data.command_joints" in text
    renamed = ", ".join(f"leader_{joint}: {joint}" for joint in JOINTS)
    dataset = convert_one(tmp_path / "named", commands_of_many_kinds(), *settings, f"data.command_joints={{{renamed}}}")
    np.testing.assert_allclose(actions_of(dataset), states_of(dataset) + 0.25, rtol=0, atol=1e-6)


def test_commands_may_be_an_array_of_float32(tmp_path: Path) -> None:
    settings = f"data.command_topic={ARRAY_TOPIC}", COMMAND, "data.time_source=receive"
    dataset = convert_one(tmp_path, commands_of_many_kinds(), *settings)
    np.testing.assert_allclose(actions_of(dataset), states_of(dataset) + 0.5, rtol=0, atol=1e-6)


def test_numbers_of_any_topic_are_actions_and_no_state(tmp_path: Path) -> None:
    text = reason(tmp_path, commands_of_many_kinds(), f"data.command_topic={TWIST_TOPIC}", COMMAND)
    assert "data.action_paths takes numbers of any topic as actions" in text
    paths = f"data.action_paths={{vx: '{TWIST_TOPIC}:twist.linear.x', vz: '{TWIST_TOPIC}:twist.linear.z'}}"
    dataset = convert_one(tmp_path / "twist", commands_of_many_kinds(), paths, COMMAND)
    np.testing.assert_allclose(actions_of(dataset)[:, 0], 0.1, rtol=1e-6)
    np.testing.assert_allclose(actions_of(dataset)[:, 1], sources_of(dataset)["vz.message"] / 100, atol=1e-6)
    features = read_json(dataset / "meta/info.json")["features"]
    assert features["action"]["names"] == ["vx", "vz"]
    assert features["action"]["info"]["paths"]["vx"] == f"{TWIST_TOPIC}:twist.linear.x"
    assert features["observation.state"]["names"] == JOINTS
    assert check(dataset).findings == []


def test_numbers_of_any_topic_follow_the_commands_of_the_joints(tmp_path: Path) -> None:
    paths = f"data.action_paths={{vz: '{TWIST_TOPIC}:twist.linear.z'}}"
    dataset = convert_one(tmp_path, commands_of_many_kinds(), paths, "conventions.action=next_position")
    found = actions_of(dataset)
    assert found.shape[1] == 7
    np.testing.assert_array_equal(found[:-1, :6], states_of(dataset)[1:])
    np.testing.assert_allclose(found[:, 6], sources_of(dataset)["vz.message"] / 100, atol=1e-6)
