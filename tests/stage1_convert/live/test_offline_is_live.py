"""What a policy sees on a robot is what its dataset holds: the same messages, float32 states and images, at every tick."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg

from common.cli.command import UserError
from common.lerobot.images import decode_image
from examples.replay import answers, differences, main, read_recorded
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.message_types import FFMPEG, FOREIGN
from stage1_convert.dataset.record import read_record
from stage1_convert.live.observe import LiveStreams, Observation, Refusal
from stage1_convert.live.rules import LiveRules, RobotTopics
from tests.recordings import ros1
from tests.recordings.publishers import (
    FINGER,
    LEADER_TOPIC,
    commands_of_many_kinds,
    gripper_in_the_arms_message,
    gripper_with_publisher_of_its_own,
)
from tests.stage1_convert.bags.test_bag import split
from tests.stage1_convert.conversion import jpegs, report, rows, run
from tests.stage1_convert.images.video import packets, video_message
from tests.stage1_convert.pipeline.test_bad_messages import BAD_JOINTS
from tests.stage1_convert.pipeline.test_pairing import VARIANTS, recorded
from tests.stage1_convert.pipeline.test_publishers import COMMAND, SEVEN
from tests.stage1_convert.pipeline.test_streams_that_publish_on_change import FIELD, PATIENT, gripping
from tests.stage1_convert.recording import (
    JOINT_TOPIC,
    JOINTS,
    JPEG_TOPIC,
    RAW_TOPIC,
    START_NS,
    TYPES,
    Recording,
    cell,
    compressed_image,
    stamp_of,
    with_images,
    with_joints,
)

DELAY_MS = 100  # more than any message of these recordings is on its way
PNG = "data.storage=png"  # what was decoded is stored without loss


class Case(NamedTuple):
    """How a bag is written below a folder, and the settings of its conversion."""

    write: Callable[[Path], Path]
    overrides: tuple[str, ...] = ()


def recorded_case(make: Callable[[], Recording], *overrides: str) -> Case:
    return Case(lambda folder: make().write(folder / "bag"), overrides)


def pairing_case(name: str) -> Case:
    variant = VARIANTS[name]()
    cameras = ", ".join(f"{camera}: {topic}" for camera, topic in variant.cameras.items())
    return recorded_case(lambda: variant.recording, f"data.cameras={{{cameras}}}", *variant.overrides)


def filmed(b_frames: int, damaged: int | None) -> Recording:
    TYPES.register(get_types_from_msg(FOREIGN[FFMPEG], FFMPEG))
    recording, stream = cell(3.0), packets("libx264", 90, b_frames)
    if damaged is not None:
        stream[damaged] = stream[damaged]._replace(data=stream[damaged].data[:20] + bytes(40))
    for at, (said, packet) in enumerate(zip(recording.images, stream, strict=True)):
        message = video_message(TYPES, FFMPEG, "libx264", stamp_of(said), packet.is_key, packet.data)
        recording.images[at] = said._replace(topic=RAW_TOPIC, type=FFMPEG, message=message)
    return recording


def without_stamps() -> Recording:
    recording = recorded()
    for at, said in enumerate(recording.images):
        recording.images[at] = said._replace(message=compressed_image(0, said.message.data.tobytes()))
    return recording


def with_bad_images() -> Recording:
    return with_images(cell(3.0), [10, 30, 31], lambda _, data: data[:200])


def with_bad_joints(kind: str) -> Recording:
    return with_joints(cell(), 60, 64, BAD_JOINTS[kind][0])


def with_velocities() -> Recording:
    recording = recorded()
    for said in recording.joints:
        said.message.velocity = said.message.position * 2
    return recording


CASES: dict[str, Case] = {
    **{f"pairing: {name}": pairing_case(name) for name in VARIANTS if name != "nearest"},
    "db3": Case(lambda folder: recorded().write(folder / "bag", "sqlite3")),
    "zstd messages": Case(lambda folder: recorded().write(folder / "bag", "sqlite3", "message")),
    "zstd file": Case(lambda folder: recorded().write(folder / "bag", "sqlite3", "file")),
    "mcap with zstd chunks": Case(lambda folder: recorded().write(folder / "bag", "mcap", "storage")),
    "split bag": Case(lambda folder: shutil.copytree(split(cell(), folder.parent / "parts", 60, 45), folder / "bag")),
    "ROS 1": Case(lambda folder: ros1.write_bag(recorded(), folder / "bag.bag", "bz2")),
    "ROS 1 as MCAP": Case(lambda folder: ros1.write_mcap(recorded(), folder / "bag.mcap")),
    "raw images, resized": recorded_case(lambda: recorded(topic=RAW_TOPIC), "conventions.image_resize=[12, 40]"),
    "no stamps": recorded_case(without_stamps),
    "receive times": recorded_case(recorded, "data.time_source=receive"),
    "signs, wrapped": recorded_case(
        lambda: VARIANTS["crossing pi"]().recording,
        "conventions.apply_joint_sign=true",
        "conventions.wrap_angles=true",
    ),
    "velocities": recorded_case(with_velocities, "data.joint_fields=[velocity, position]"),
    "gripper with a publisher of its own": recorded_case(gripper_with_publisher_of_its_own, SEVEN),
    "slow gripper with a limit of its own": recorded_case(
        lambda: gripper_with_publisher_of_its_own(hz=2), SEVEN, f"data.max_age_ms_by_stream={{joints.{FINGER}: 600}}"
    ),
    "gripper by name": recorded_case(
        gripper_with_publisher_of_its_own, "data.state_fields={gripper: '/joint_states:position.finger_joint'}"
    ),
    "gripper in the arm's message": recorded_case(gripper_in_the_arms_message, SEVEN),
    "commands": recorded_case(
        commands_of_many_kinds,
        f"data.command_topic={LEADER_TOPIC}",
        COMMAND,
        f"data.command_joints={{{', '.join(f'leader_{joint}: {joint}' for joint in JOINTS)}}}",
    ),
    "on change": recorded_case(lambda: gripping((0.0, 0.0), (1.5, 0.7)), FIELD, PATIENT),
    "on change, with a limit": recorded_case(
        lambda: gripping((0.0, 0.0), (1.5, 0.7)), FIELD, "data.max_age_ms_by_stream={gripper: 2000}"
    ),
    "initial value": recorded_case(lambda: gripping((2.5, 0.7)), FIELD, PATIENT, "data.initial_values={gripper: 0.25}"),
    "bad images": recorded_case(with_bad_images),
    **{f"bad joints: {kind}": recorded_case(lambda kind=kind: with_bad_joints(kind)) for kind in BAD_JOINTS},  # type: ignore[misc]
    "video": recorded_case(lambda: filmed(0, None)),
    "video with a damaged packet": recorded_case(lambda: filmed(0, 44)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_robot_sees_what_the_dataset_holds(tmp_path: Path, name: str) -> None:
    bag = CASES[name].write(tmp_path / "src")
    run(tmp_path / "src", tmp_path / "out", *CASES[name].overrides, PNG)
    found = answers(bag, read_recorded(tmp_path / "out", None), DELAY_MS)
    compare(tmp_path / "out", found)


def compare(dataset: Path, found: list[Observation | Refusal]) -> None:
    """Compare the answers at all ticks with a dataset that has one bag."""
    recorded_bag = read_recorded(dataset, None)
    seen = {answer.tick_ns: answer for answer in found}
    table = rows(dataset)
    assert len(table) == len(recorded_bag.messages) > 20
    for (tick_ns, messages), (_, row) in zip(recorded_bag.messages.items(), table.iterrows(), strict=True):
        answer = seen.pop(tick_ns)
        assert isinstance(answer, Observation), answer
        assert answer.messages == {stream: messages[stream] for stream in recorded_bag.rules.resample}
        assert answer.state.dtype == np.float32
        np.testing.assert_array_equal(answer.state, row["observation.state"])
        for camera, image in answer.images.items():
            np.testing.assert_array_equal(image, decode_image(row[f"observation.images.{camera}"]["bytes"]))
    for gap in report(dataset)["bags"][0]["gaps"]:
        first = recorded_bag.ticks_ns.tolist().index(gap["start_ns"])
        for tick_ns in recorded_bag.ticks_ns[first : first + gap["frames"]].tolist():
            answer = seen[tick_ns]
            assert isinstance(answer, Refusal)
            assert set(answer.reasons) <= set(gap["streams"])


def test_a_video_that_holds_images_back_takes_a_longer_delay(tmp_path: Path) -> None:
    bag = filmed(2, None).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", PNG)
    recorded_bag = read_recorded(tmp_path / "out", None)
    refusal = next(answer for answer in answers(bag, recorded_bag, 20) if isinstance(answer, Refusal))
    assert "the video holds images back, so that the delay must be longer" in refusal.reasons["color"]
    found = answers(bag, recorded_bag, 300)
    refused = [at for at, answer in enumerate(found) if isinstance(answer, Refusal)]
    assert refused == list(range(len(found) - len(refused), len(found))), "those at the end, whose images never come"
    assert len(refused) < 10
    images = [decode_image(stored["bytes"]) for stored in rows(tmp_path / "out")["observation.images.color"]]
    for answer, image in zip(found[: -len(refused)], images, strict=False):
        assert isinstance(answer, Observation)
        np.testing.assert_array_equal(answer.images["color"], image)


def test_a_jpeg_that_is_passed_through_is_seen_as_it_is_stored(tmp_path: Path) -> None:
    recording = cell()
    bag = recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    found = answers(bag, read_recorded(tmp_path / "out", None), DELAY_MS)
    compare(tmp_path / "out", found)
    for answer, stored in zip(found, jpegs(tmp_path / "out"), strict=True):
        assert isinstance(answer, Observation)
        assert stored == recording.images[answer.messages["color"]].message.data.tobytes()


def test_without_a_delay_what_is_still_on_its_way_is_missed_and_the_command_counts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = recorded().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    recorded_bag = read_recorded(tmp_path / "out", None)
    refused, differing = differences(recorded_bag, answers(bag, recorded_bag, 0))
    assert refused == 0
    assert differing["color"] > len(recorded_bag.messages) / 4  # images are 10 to 20 ms on their way
    assert 0 < differing["joints"] < len(recorded_bag.messages) / 4  # joints less than 1 ms
    assert main([str(tmp_path / "out"), str(bag), "--delay-ms", "0", "50"]) == 0
    printed = capsys.readouterr().out
    assert f"color {differing['color']}, joints {differing['joints']}; 0 frames refused" in printed
    assert "50 ms  color 0, joints 0; 0 frames refused" in printed


def test_another_bag_is_refused_and_not_a_bag_without_differences(tmp_path: Path) -> None:
    recorded().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    later = recorded()
    for kind in ("images", "joints"):
        heard = [said._replace(receive_ns=said.receive_ns + 3600 * 10**9) for said in getattr(later, kind)]
        setattr(later, kind, heard)
    bag = later.write(tmp_path / "later")
    with pytest.raises(
        UserError, match="later: no frame was answered; give the bag of that name, or its name by --name"
    ):
        main([str(tmp_path / "out"), str(bag), "--delay-ms", "50"])


@pytest.mark.parametrize(
    ("rule", "stream"), [("data.resample=nearest", "color"), ("data.resample_by_stream={joints: linear}", "joints")]
)
def test_a_stream_that_looks_ahead_is_refused_by_name(tmp_path: Path, rule: str, stream: str) -> None:
    recorded().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", rule)
    with pytest.raises(UserError, match=rf"stream {stream} was aligned by (nearest|linear), which looks ahead"):
        read_recorded(tmp_path / "out", None)


def test_bags_that_were_aligned_otherwise_must_be_told_apart(tmp_path: Path) -> None:
    recorded().write(tmp_path / "src" / "a")
    without_stamps().write(tmp_path / "src" / "b")
    run(tmp_path / "src", tmp_path / "out")
    record = read_record(tmp_path / "out")
    assert record
    with pytest.raises(UserError, match="stream color was aligned by header in bag a and by receive in bag b: choose"):
        LiveRules.of(record)
    assert LiveRules.of(record, "b").clock["color"] == "receive"
    with pytest.raises(UserError, match="the dataset holds no bag c: it holds a, b"):
        LiveRules.of(record, "c")


def test_a_robot_that_lacks_a_topic_or_falls_silent_is_refused(tmp_path: Path) -> None:
    bag = recorded().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    rules = read_recorded(tmp_path / "out", None).rules
    with open_bag(bag, tmp_path, "humble") as opened:
        robot = RobotTopics(opened.topics, "humble")
        with pytest.raises(UserError, match=f"has no topic {RAW_TOPIC}"):
            LiveStreams(rules, robot._replace(topics={JOINT_TOPIC: opened.topics[JOINT_TOPIC]}))
        live = LiveStreams(rules, robot)
        assert live.topics == {JOINT_TOPIC, JPEG_TOPIC}
        answer = live.observe(START_NS)
        assert isinstance(answer, Refusal)
        assert answer.reasons == {"joints": "no message has come", "color": "no message has come"}
        assert live.first_tick_ns(START_NS) is None
        for topic, receive_ns, data in opened.records(sorted(live.topics)):
            live.add(topic, receive_ns, data)
    end_ns = START_NS + 3 * 10**9
    first_ns = live.first_tick_ns(end_ns)
    assert first_ns is not None
    grid_ns = read_recorded(tmp_path / "out", None).ticks_ns[0]
    assert abs((first_ns - grid_ns) % (10**9 / 30) / (10**9 / 30) - 0.5) > 0.4, "the phase of the dataset's grid"
    answer = live.observe(end_ns)
    assert isinstance(answer, Refusal)
    assert set(answer.reasons) == {"joints", "color"}
    assert " ms old, more than 100 ms" in answer.reasons["color"]


def test_a_damaged_image_is_named_where_bad_messages_are_refused(tmp_path: Path) -> None:
    recording = cell(3.0)
    recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "data.bad_messages=refuse")
    damaged = with_images(recording, [40], lambda _, data: data[:200]).write(tmp_path / "damaged")
    found = answers(damaged, read_recorded(tmp_path / "out", None), DELAY_MS)
    (refusal,) = [answer for answer in found if isinstance(answer, Refusal)]
    assert "its end marker is missing" in refusal.reasons["color"]
