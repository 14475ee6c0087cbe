"""The survey of a bag is right, and the configuration proposed for it converts it."""

import re
from pathlib import Path

import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg

from common.cli.config import load
from common.lerobot.images import decode_image
from stage1_convert.config import UR_JOINTS, Config
from stage1_convert.inspect.print import inspect
from stage1_convert.inspect.survey import Survey, survey
from stage1_convert.pipeline.convert import Options, convert
from stage1_convert.sources.folder import LocalBags
from stage1_convert.sources.source import BagPath
from tests.recordings.publishers import commands_of_many_kinds, gripper_with_publisher_of_its_own, zeros_beside_the_arm
from tests.stage1_convert.conversion import jpegs, rows
from tests.stage1_convert.recording import (
    DRIVER_JOINTS,
    JOINT_STATE,
    JOINT_TOPIC,
    JPEG_TOPIC,
    RAW_TOPIC,
    START_NS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
    compressed_image,
    draw,
    joint_state,
    number_in,
    raw_image,
    stamp_of,
)

CONFIG, GRIPPER_COMMAND = "proposed.yaml", "control_msgs/msg/GripperCommand"


def survey_bag(path: Path) -> Survey:
    return survey(BagPath(path.name, path), Config().data)


def renamed(recording: Recording, joints: str, images: str) -> Recording:
    """The same recording on other topics."""
    recording.joints = [recorded._replace(topic=joints) for recorded in recording.joints]
    recording.images = [recorded._replace(topic=images) for recorded in recording.images]
    return recording


def with_joints(names: list[str], first: int = 0) -> Recording:
    """Return a cell whose joint states name other joints from the `first` one on, all of them at rest."""
    recording = cell()
    for number, recorded in enumerate(recording.joints[first:], first):
        message = joint_state(stamp_of(recorded), names, np.zeros(len(names)))
        recording.joints[number] = recorded._replace(message=message)
    return recording


def test_topics_rates_and_gaps_are_counted(tmp_path: Path) -> None:
    recording = cell()
    del recording.images[20:23]
    found = {topic.name: topic for topic in survey_bag(recording.write(tmp_path / "bag")).topics}
    joints, images = found[JOINT_TOPIC], found[JPEG_TOPIC]
    assert (joints.read, images.read) == (150, 42)
    assert joints.rate_hz == pytest.approx(100, abs=1)
    assert images.rate_hz == pytest.approx(30 * 41 / 44, abs=1)  # three of its images are missing
    assert images.intervals_ms.max() == pytest.approx(4 / 30 * 1000, abs=4)
    assert joints.intervals_ms.std() == pytest.approx(np.std(np.diff(list(map(stamp_of, recording.joints)))) / 1e6)
    assert joints.clock is not None
    assert joints.clock.source == "header"


def test_a_clock_that_cannot_be_trusted_is_reported_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = cell()
    for recorded in recording.images:
        recorded.message.header.stamp.sec = recorded.message.header.stamp.nanosec = 0
    inspect(recording.write(tmp_path / "bag"), tmp_path / "out")
    assert f"{JPEG_TOPIC}: receive times are used: 45 of 45 header stamps are zero" in capsys.readouterr().out


def test_a_joint_order_that_changes_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = with_joints(UR_JOINTS, first=100).write(tmp_path / "bag")
    orders = next(topic.orders for topic in survey_bag(bag).topics if topic.type == JOINT_STATE)
    assert [(list(order.names), order.messages, order.first) for order in orders] == [
        (DRIVER_JOINTS, 100, 0),
        (UR_JOINTS, 50, 100),
    ]
    inspect(bag, tmp_path / "out")
    assert "THE ORDER CHANGES from message 100 on (50 messages): shoulder_pan_joint" in capsys.readouterr().out


def test_a_proposal_says_what_would_still_refuse_the_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(zeros_beside_the_arm().write(tmp_path / "bag"), tmp_path / "out") == 0
    line = "# bag bag would still be refused: topic /joint_states: two publishers contradict each other"
    assert line in capsys.readouterr().out
    assert (tmp_path / "out" / CONFIG).read_text().startswith(line)


@pytest.mark.parametrize("topic", [RAW_TOPIC, JPEG_TOPIC])
def test_images_that_change_their_size_are_proposed_to_be_resized(tmp_path: Path, topic: str) -> None:
    recording, smaller = cell(topic=topic), cell(topic=topic, size=(24, 32))
    recording.images[30:] = smaller.images[30:]
    bag = recording.write(tmp_path / "src" / "bag")
    inspect(bag, tmp_path / "out")
    config = load(Config, tmp_path / "out" / CONFIG)
    assert config.conventions.image_resize == [48, 64]
    assert convert(LocalBags(tmp_path / "src"), tmp_path / "dataset", config, Options(0)).refused == []


def test_the_names_of_a_leader_are_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(commands_of_many_kinds().write(tmp_path / "bag"), tmp_path / "out")
    printed = capsys.readouterr().out
    assert "with the commands of /leader/joint_states: data.command_joints: {leader_shoulder_pan_joint: " in printed


def test_a_thumbnail_of_every_camera_is_saved_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = cell(size=(480, 640), seconds=0.6)
    recording.others = [recorded._replace(topic="/wrist/image_raw/compressed") for recorded in recording.images]
    middle = recording.images[9]
    recording.images[9] = middle._replace(message=compressed_image(stamp_of(middle), b"cut off"))
    assert inspect(recording.write(tmp_path / "bag"), tmp_path / "out") == 0
    files = sorted((tmp_path / "out").glob("*.jpg"))
    assert [decode_image(file.read_bytes()).shape for file in files] == [(240, 320, 3)] * 2
    printed = capsys.readouterr().out
    assert all(f"thumbnail: {file}" in printed for file in files)
    assert "480x640 images, jpeg understood as color, " in printed


def test_what_a_camera_sends_is_shown_as_it_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = cell(topic=RAW_TOPIC)
    depth = np.linspace(0, 9000, 48 * 64).astype("<u2").view(np.uint8).reshape(48, 128)
    for number, recorded in enumerate(recording.images):
        message = raw_image(START_NS + number, depth[..., None], "16UC1")
        message.width = 64
        recording.images[number] = recorded._replace(message=message)
    assert inspect(recording.write(tmp_path / "bag"), tmp_path / "out") == 0
    assert "48x64 images, 16UC1 understood as depth in millimeters from 2 to 9000, " in capsys.readouterr().out


def test_channels_without_names_are_guessed_in_the_proposal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = cell(topic=RAW_TOPIC)
    for number, recorded in enumerate(recording.images):
        image = np.ascontiguousarray(draw(number)[..., ::-1])
        recording.images[number] = recorded._replace(message=raw_image(stamp_of(recorded), image, "8UC3"))
    bag = recording.write(tmp_path / "src" / "bag")
    assert inspect(bag, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "48x64 images, 8UC3 understood as color (a guess: data.encodings={CAMERA: bgr8})" in printed
    assert "# camera color sends 8UC3, which does not name its channels: bgr8 is a guess, see its thumbnail" in printed
    config = load(Config, tmp_path / "out" / CONFIG, ["data.storage=png"])
    assert config.data.encodings == {"color": "bgr8"}
    assert convert(LocalBags(tmp_path / "src"), tmp_path / "dataset", config, Options(0)).frames == 44
    image = decode_image(jpegs(tmp_path / "dataset")[0])
    assert np.array_equal(image, draw(number_in(image)))


@pytest.mark.parametrize(
    ("joints", "images", "cameras"),
    [
        (JOINT_TOPIC, JPEG_TOPIC, {"color": RAW_TOPIC}),
        (JOINT_TOPIC, RAW_TOPIC, {"color": RAW_TOPIC}),
        ("/left/joint_states", "/wrist_camera/image_raw", {"wrist_camera": "/wrist_camera/image_raw"}),
        ("/arm/states", "/image", {"image": "/image"}),
    ],
)
def test_the_proposed_configuration_converts_the_bag(
    joints: str, images: str, cameras: dict[str, str], tmp_path: Path
) -> None:
    recording = renamed(cell(topic=images), joints, images)
    bag = recording.write(tmp_path / "src" / "bag")
    assert inspect(bag, tmp_path / "out") == 0
    config = load(Config, tmp_path / "out" / CONFIG)
    assert config.data.cameras == cameras
    assert config.conventions.joint_order == UR_JOINTS
    assert convert(LocalBags(tmp_path / "src"), tmp_path / "dataset", config, Options(0)).frames == 44


def test_another_arms_joints_are_proposed_as_found(tmp_path: Path) -> None:
    names = [f"panda_joint{number}" for number in (3, 1, 2)]
    config = proposed(with_joints(names), tmp_path)
    assert (config.conventions.joint_order, config.data.robot_type) == (names, "robot")


def proposed(recording: Recording, folder: Path) -> Config:
    """Return the configuration that is proposed for a recording, which must convert it."""
    inspect(recording.write(folder / "src" / "bag"), folder / "out")
    config = load(Config, folder / "out" / CONFIG)
    assert convert(LocalBags(folder / "src"), folder / "dataset", config, Options(0)).refused == []
    return config


def test_a_gripper_next_to_a_ur_arm_is_a_further_joint_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    names = [f"left_{name}" for name in ("finger_joint", "inner_knuckle_joint", *DRIVER_JOINTS)]
    config = proposed(with_joints(names), tmp_path)
    assert config.conventions.joint_order == [f"left_{name}" for name in (*UR_JOINTS, "finger_joint")]
    text = (tmp_path / "out" / CONFIG).read_text()
    assert f"# joints that are left out: {JOINT_TOPIC}: left_inner_knuckle_joint\n" in text
    assert "add them to conventions.joint_order" in text


@pytest.mark.parametrize("passive", [[], ["robotiq_85_left_inner_knuckle_joint", "robotiq_85_right_knuckle_joint"]])
def test_the_driven_joint_of_a_robotiq_gripper_is_proposed(passive: list[str], tmp_path: Path) -> None:
    config = proposed(with_joints([*DRIVER_JOINTS, "robotiq_85_left_knuckle_joint", *passive]), tmp_path)
    assert config.conventions.joint_order == [*UR_JOINTS, "robotiq_85_left_knuckle_joint"]


@pytest.mark.parametrize(("hz", "limits"), [(50, {}), (10, {"joints.finger_joint": 250.0})])
def test_a_gripper_with_a_publisher_of_its_own_is_a_further_joint(
    hz: int, limits: dict[str, float], tmp_path: Path
) -> None:
    config = proposed(gripper_with_publisher_of_its_own(hz), tmp_path)
    assert config.conventions.joint_order == [*UR_JOINTS, "finger_joint"]
    assert config.data.max_age_ms_by_stream == pytest.approx(limits, rel=0.05)


def test_a_gripper_on_a_topic_of_its_own_is_a_field_of_state_and_action(tmp_path: Path) -> None:
    recording = gripper_with_publisher_of_its_own()
    recording.others = [recorded._replace(topic="/gripper/joint_states") for recorded in recording.others]
    config = proposed(recording, tmp_path)
    assert config.data.state_fields == {"finger_joint": "/gripper/joint_states:position[finger_joint]"}
    assert config.action_names == (*UR_JOINTS, "finger_joint")


def test_both_arms_of_one_topic_are_proposed(tmp_path: Path) -> None:
    names = [f"{side}_{name}" for side in ("left", "right") for name in DRIVER_JOINTS]
    config = proposed(with_joints(names), tmp_path)
    assert config.conventions.joint_order == [f"{side}_{name}" for side in ("left", "right") for name in UR_JOINTS]


def test_both_arms_on_topics_of_their_own_are_proposed(tmp_path: Path) -> None:
    recording = renamed(cell(), "/left/joint_states", JPEG_TOPIC)
    recording.others = [recorded._replace(topic="/right/joint_states") for recorded in recording.joints]
    config = proposed(recording, tmp_path)
    assert config.data.joint_topic == "/left/joint_states"
    assert list(config.data.state_fields) == [f"right_{name}" for name in UR_JOINTS]
    assert config.data.state_fields["right_elbow_joint"] == "/right/joint_states:position[elbow_joint]"


@pytest.mark.parametrize("of_arm", ["", "right_"])
def test_a_second_arm_whose_joints_name_it_already_gets_no_second_prefix(of_arm: str, tmp_path: Path) -> None:
    recording = cell(size=(16, 64))
    for said in recording.joints:
        for topic, prefix in (("/left/joint_states", "left_"), ("/right/joint_states", of_arm)):
            names = [prefix + name for name in ("waist", "left_finger")]
            told = joint_state(stamp_of(said), names, [0.1, 0.2])
            recording.others.append(RecordedMessage(said.receive_ns, topic, JOINT_STATE, told))
    recording.joints = []
    assert list(proposed(recording, tmp_path).data.state_fields) == ["right_waist", "right_left_finger"]


def test_leaders_of_two_arms_are_no_state_and_the_second_one_has_a_setting(tmp_path: Path) -> None:
    recording = cell(size=(16, 64))
    for said in recording.joints:
        for topic in ("/leader_left/joint_states", "/leader_right/joint_states"):
            recording.others.append(RecordedMessage(said.receive_ns, topic, JOINT_STATE, said.message))
    proposed(recording, tmp_path)
    text = (tmp_path / "out" / CONFIG).read_text()
    assert "# by their names, those of /leader_left/joint_states, /leader_right/joint_states are commands" in text
    assert "# data.command_topic takes one of them; those of a second arm are added to data.action_paths" in text
    assert "add them to conventions.joint_order" not in text


def test_bags_of_two_recorders_are_proposed_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = cell()
    Recording(joints=recording.joints).write(tmp_path / "src" / "arm")
    Recording(images=recording.images).write(tmp_path / "src" / "camera")
    assert inspect(tmp_path / "src", tmp_path / "out", join=True) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"--config {tmp_path / 'out' / CONFIG} --join")
    config = load(Config, tmp_path / "out" / CONFIG)
    summary = convert(LocalBags(tmp_path / "src", join=True), tmp_path / "dataset", config, Options(0))
    assert (summary.bags, summary.refused) == (1, [])


def test_a_leader_arm_is_no_state_but_named_as_left_out_and_as_commands(tmp_path: Path) -> None:
    config = proposed(commands_of_many_kinds(), tmp_path)
    assert (config.data.joint_topic, config.data.state_fields) == (JOINT_TOPIC, {})
    text = (tmp_path / "out" / CONFIG).read_text()
    assert "# joints that are left out: /leader/joint_states: leader_shoulder_lift_joint" in text
    assert "conventions.action: command): /commands, /leader/joint_states\n" in text
    settings = "data.action_paths: {vx: '/servo/twist:twist.linear.x'}, conventions.action: command"
    assert f"# twists to take actions from ({settings}): /servo/twist:twist.linear.x\n" in text
    paths = "data.action_paths={vx: '/servo/twist:twist.linear.x'}"
    config = load(Config, tmp_path / "out" / CONFIG, [paths, "conventions.action=command"])
    assert convert(LocalBags(tmp_path / "src"), tmp_path / "twists", config, Options(0)).refused == []


def test_a_gello_with_more_joints_than_the_arm_is_its_leader(tmp_path: Path) -> None:
    recording = cell(size=(16, 64))
    for said in recording.joints:
        leader = joint_state(stamp_of(said), [*said.message.name, "gripper"], [*said.message.position, 0.5])
        recording.others.append(RecordedMessage(said.receive_ns, "/gello/joint_states", JOINT_STATE, leader))
    config = proposed(recording, tmp_path)
    assert (config.data.joint_topic, config.data.state_fields) == (JOINT_TOPIC, {})
    assert "conventions.action: command): /gello/joint_states\n" in (tmp_path / "out" / CONFIG).read_text()


def with_numbers(*topics: str, every: int = 1) -> Recording:
    """Return a recording with numbers beside every n-th message of the joints; a command's in a GripperCommand."""
    TYPES.register(get_types_from_msg("float64 position\nfloat64 max_effort", GRIPPER_COMMAND))
    recording = cell(seconds=3.0, size=(16, 64))
    for topic in topics:
        msgtype = GRIPPER_COMMAND if topic == "/gripper/command" else "std_msgs/msg/Float64"
        number = TYPES.types[msgtype](*((0.04, 40.0) if msgtype == GRIPPER_COMMAND else (0.5,)))
        times_ns = [said.receive_ns for said in recording.joints[::every]]
        recording.others += [RecordedMessage(time_ns, topic, msgtype, number) for time_ns in times_ns]
    return recording


@pytest.mark.parametrize(
    ("topics", "fields"),
    [
        (["/gripper/width", "/gripper/command"], {"gripper": "/gripper/width:data"}),
        (["/gripper/command", "/battery"], {"gripper": "/gripper/command:position"}),
        (
            ["/left/gripper", "/right/gripper"],
            {"left_gripper": "/left/gripper:data", "right_gripper": "/right/gripper:data"},
        ),
        (["/gripper/width", "/gripper/current"], {}),  # nothing tells which of them it is
    ],
)
def test_a_gripper_in_plain_numbers_is_a_field_of_state_and_action(
    topics: list[str], fields: dict[str, str], tmp_path: Path
) -> None:
    config = proposed(with_numbers(*topics, every=20), tmp_path)
    assert (config.data.state_fields, config.conventions.action_fields) == (fields, list(fields))
    assert config.conventions.action == ("next_position" if fields else "delta")
    assert config.data.max_age_ms_by_stream == dict.fromkeys(fields, pytest.approx(500, rel=0.2))


def test_numbers_are_named_as_left_out_with_their_paths(tmp_path: Path) -> None:
    proposed(
        with_numbers("/gripper/width", "/gripper/command", every=150), tmp_path
    )  # on change, as far as one can see
    text = (tmp_path / "out" / CONFIG).read_text()
    assert (
        "# numbers that are left out: /gripper/command:position, /gripper/width:data\n# add what is measured to" in text
    )
    fields = ["data.state_fields={width: '/gripper/width:data', grip: '/gripper/command:position'}"]
    fields.append("data.max_age_ms_by_stream={width: 60000, grip: 60000}")
    config = load(Config, tmp_path / "out" / CONFIG, [*fields, "conventions.action_fields=[grip]"])
    assert convert(LocalBags(tmp_path / "src"), tmp_path / "numbers", config, Options(0)).refused == []


def test_cameras_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    recording = cell(size=(16, 64))
    for side in ("left", "right"):
        topic = f"/{side}/camera/color/image_raw/compressed"
        recording.others += [recorded._replace(topic=topic) for recorded in recording.images]
    recording.images = []
    config = proposed(recording, tmp_path)
    assert config.data.cameras == {
        "left_color": "/left/camera/color/image_raw",
        "right_color": "/right/camera/color/image_raw",
    }


def test_a_slow_camera_sets_the_rate(tmp_path: Path) -> None:
    recording = cell(seconds=3, camera_hz=5)
    recording.others = [said._replace(topic="/scene/color/compressed") for said in cell(seconds=3).images]
    config = proposed(recording, tmp_path)
    text = (tmp_path / "out" / CONFIG).read_text()
    assert (
        "# camera camera_color sets data.fps: without it, 30 frames per second show more images of the others\n" in text
    )
    assert config.data.fps == 5
    assert config.data.max_age_ms == pytest.approx(500, rel=0.05)
    assert len(rows(tmp_path / "dataset")) == 14


def test_a_bag_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell().write(tmp_path / "src" / "good")
    (tmp_path / "src" / "bad.mcap").write_bytes(b"not a bag")
    assert inspect(tmp_path / "src", tmp_path / "out") == 2
    printed = capsys.readouterr().out
    assert "bag bad.mcap: " in printed
    assert "bag good: 1 file" in printed
    assert (tmp_path / "out" / CONFIG).is_file()


def test_a_bag_without_joints_gets_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = cell()
    recording.joints = []
    assert inspect(recording.write(tmp_path / "bag"), tmp_path / "out") == 0
    assert (
        "no configuration is proposed: no bag holds joint states (sensor_msgs/msg/JointState)\n"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(("camera_hz", "fps"), [(30, 30), (28, 28), (15, 15), (50, 25), (60, 30), (90, 30)])
def test_the_proposed_rate_suits_the_camera_and_its_images_are_counted(
    tmp_path: Path, camera_hz: int, fps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = cell(seconds=3.0, camera_hz=camera_hz, size=(16, 64))
    del recording.images[camera_hz]
    assert inspect(recording.write(tmp_path / "bag"), tmp_path / "out") == 0
    assert load(Config, tmp_path / "out" / CONFIG).data.fps == fps
    repeated = 1 if camera_hz == fps else 0
    found = re.search(
        rf"# color: {repeated} of (\d+) frames repeat an image and (\d+) images are in no frame; the camera lost 1, and its "
        rf"([\d.]+) Hz at {fps} fps make (\d+) unavoidable",
        capsys.readouterr().out,
    )
    assert found
    frames, passed_over, rate_hz, unavoidable = map(float, found.groups())
    assert rate_hz == pytest.approx(camera_hz, rel=0.01)
    assert passed_over == pytest.approx(frames * (camera_hz / fps - 1), abs=4)
    assert unavoidable == pytest.approx(passed_over, abs=4)
