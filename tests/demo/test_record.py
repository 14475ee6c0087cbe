import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from common.cli.command import UserError
from demo.arm import JOINT_NAMES, tool_position
from demo.expert import HOVER_M, motion
from demo.record import EPOCH_NS, JOINT_TOPIC, JPEG_TOPIC, PERIOD_NS, RAW_TOPIC, Episode, main, plan_episode, record
from demo.scene import render, target_pixels
from tests.conftest import ROOT, group_ends

SEED, COUNT = 4, 8
KILLED = """
import os, signal, sys
from demo.record import main

def kill(event, args):
    if event == "os.rename" and os.fspath(args[1]).endswith("episode_0002"):
        os.killpg(0, signal.SIGKILL)

sys.addaudithook(kill)  # in the worker, too, which imports this file
if __name__ == "__main__":
    main()
"""

Received = tuple[str, int, bytes]  # topic, bag time in ns, CDR


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "bags"
    assert record(out, COUNT, SEED)
    return out


@pytest.fixture(scope="module")
def truth(bags: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((bags / "truth.json").read_text())["bags"]
    return listed


def raw(bag: Path) -> list[Received]:
    with AnyReader([bag]) as reader:
        return [(connection.topic, received, bytes(data)) for connection, received, data in reader.messages()]


def decoded(bag: Path, *topics: str) -> Iterator[tuple[int, Any]]:
    """Yield (bag time in ns, message) of the topics."""
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        wanted = [connection for connection in reader.connections if connection.topic in topics]
        for connection, received, data in reader.messages(wanted):
            yield received, reader.deserialize(data, connection.msgtype)


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def images(bag: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (bag time, header stamp, RGB image), decoded without the recorder's help."""
    for received, message in decoded(bag, RAW_TOPIC, JPEG_TOPIC):
        if message.__msgtype__ == "sensor_msgs/msg/CompressedImage":
            assert message.format == "jpeg"
            image = np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR))[..., ::-1]
        else:
            assert (message.encoding, message.is_bigendian, message.step) == ("rgb8", 0, message.width * 3)
            image = message.data.reshape(message.height, message.width, 3)
        yield received, stamp_ns(message), image


def every_bag(count: int = COUNT) -> list[str]:
    return [f"episode_{index:04d}" for index in range(count)]


def test_storage_and_image_kinds_occur_in_all_four_combinations(bags: Path, truth: list[dict[str, Any]]) -> None:
    found = set()
    for name in every_bag():
        (storage,) = (path.suffix for path in (bags / name).iterdir() if path.suffix != ".yaml")
        found |= {(storage, topic) for topic, *_ in raw(bags / name) if topic != JOINT_TOPIC}
    assert found == {(storage, topic) for storage in (".db3", ".mcap") for topic in (RAW_TOPIC, JPEG_TOPIC)}
    assert {(bag["storage"], bag["camera_topic"]) for bag in truth} == {
        (storage, topic) for storage in ("sqlite3", "mcap") for topic in (RAW_TOPIC, JPEG_TOPIC)
    }


def test_storage_files_carry_the_name_of_their_bag(bags: Path) -> None:
    for name in every_bag():
        assert {path.stem for path in (bags / name).iterdir()} == {name, "metadata"}


def test_joints_are_named_in_the_order_of_the_ur_driver(bags: Path) -> None:
    for _, message in decoded(bags / "episode_0000", JOINT_TOPIC):
        assert message.name == [
            "shoulder_lift_joint",
            "elbow_joint",
            "wrist_1_joint",
            "wrist_2_joint",
            "wrist_3_joint",
            "shoulder_pan_joint",
        ]


@pytest.mark.parametrize("name", every_bag(4))
def test_the_first_positions_are_the_start_read_by_name(bags: Path, truth: list[dict[str, Any]], name: str) -> None:
    _, first = next(decoded(bags / name, JOINT_TOPIC))
    start = truth[every_bag().index(name)]["start_joints"]
    np.testing.assert_allclose(first.position, [start[joint] for joint in first.name], atol=1e-6)


@pytest.mark.parametrize("name", every_bag(4))
def test_the_last_positions_hover_above_the_target(bags: Path, truth: list[dict[str, Any]], name: str) -> None:
    *_, (_, last) = decoded(bags / name, JOINT_TOPIC)
    joints = dict(zip(last.name, last.position, strict=True))
    tip = tool_position([joints[joint] for joint in JOINT_NAMES])
    np.testing.assert_allclose(tip, [*truth[every_bag().index(name)]["target_xy_m"], HOVER_M], atol=1e-6)


def test_velocities_are_the_derivative_of_the_positions(bags: Path) -> None:
    read = [message for _, message in decoded(bags / "episode_0001", JOINT_TOPIC)]
    time_s = (np.array([stamp_ns(message) for message in read]) - EPOCH_NS) / 1e9
    measured = np.gradient(np.array([message.position for message in read]), time_s, axis=0)
    np.testing.assert_allclose([message.velocity for message in read], measured, atol=5e-3)


def test_joint_states_come_at_500_hz_a_millisecond_after_their_stamp(bags: Path) -> None:
    stamps = np.array(
        [(stamp_ns(message), received) for received, message in decoded(bags / "episode_0000", JOINT_TOPIC)]
    )
    assert len(stamps) == 1000
    np.testing.assert_allclose(np.diff(stamps[:, 0]), 2e6, atol=0.3e6)
    assert np.mean(stamps[:, 1] - stamps[:, 0]) == pytest.approx(1e6, abs=0.1e6)


@pytest.mark.parametrize("name", every_bag(4))
def test_images_come_near_30_hz_with_jitter_and_20_ms_late(bags: Path, name: str) -> None:
    received, stamps = np.array([(received, stamp) for received, stamp, _ in images(bags / name)]).T
    periods = np.diff(stamps)
    assert np.median(periods) == pytest.approx(1e9 / 30, abs=1e6)
    assert 1e6 < np.std(periods[periods < 50e6]) < 4e6
    assert np.mean(received - stamps) == pytest.approx(20e6, abs=1e6)
    assert np.std(received - stamps) > 0.1e6


def test_each_episode_starts_ten_seconds_after_the_one_before(bags: Path) -> None:
    for index, name in enumerate(every_bag()):
        _, first = next(decoded(bags / name, JOINT_TOPIC))
        assert abs(stamp_ns(first) - (1_700_000_000 + 10 * index) * 10**9) < 1e6


def test_joint_states_enclose_the_images_in_time(bags: Path) -> None:
    for name in every_bag():
        joints = [stamp_ns(message) for _, message in decoded(bags / name, JOINT_TOPIC)]
        shown = [stamp for _, stamp, _ in images(bags / name)]
        assert joints[0] < shown[0] < shown[-1] < joints[-1]


def test_the_gaps_in_the_bags_are_the_lost_frames_of_the_truth(bags: Path, truth: list[dict[str, Any]]) -> None:
    lost = 0
    for bag in truth:
        stamps = np.array([stamp for _, stamp, _ in images(bags / bag["bag"])])
        gaps = np.flatnonzero(np.diff(stamps) > 50e6)
        numbers = gaps + 1 + np.arange(len(gaps))  # each gap shifts the numbers of the frames behind it by one
        assert numbers.tolist() == bag["lost_frames"]
        assert len(stamps) == 60 - len(bag["lost_frames"])
        lost += len(gaps)
    assert lost > 0


def test_about_one_frame_in_a_hundred_is_lost() -> None:
    lost = sum(len(plan_episode(0, index).lost_frames) for index in range(200))
    assert 0.005 < lost / (200 * 60) < 0.015


def test_no_two_frames_in_a_row_are_lost_nor_the_first_or_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.record.LOST_SHARE", 0.3)  # so that it would happen often
    lost = [plan_episode(0, index).lost_frames for index in range(20)]
    assert sum(map(len, lost)) > 150
    assert all(np.all(np.diff(frames) > 1) for frames in lost)
    assert not any({0, 59} & set(frames) for frames in lost)


@pytest.mark.parametrize("name", every_bag())
def test_the_target_can_be_seen_in_the_first_image_of_every_bag(bags: Path, name: str) -> None:
    _, _, image = next(images(bags / name))
    assert target_pixels(np.ascontiguousarray(image)) >= 15


def test_a_image_shows_the_arm_when_it_was_taken_not_when_it_arrived(bags: Path) -> None:
    episode = plan_episode(SEED, 2)
    assert episode.camera_topic == RAW_TOPIC
    received, stamp, image = list(images(bags / "episode_0002"))[20]

    def at(time_ns: int) -> np.ndarray:
        positions, _ = motion(episode.task, [(time_ns - episode.start_ns) / 1e9])
        return render(positions[0], episode.task.target_xy_m)

    np.testing.assert_array_equal(image, at(stamp))
    assert np.any(image != at(received))


def test_jpeg_images_differ_from_the_rendered_ones_only_by_compression(bags: Path) -> None:
    episode = plan_episode(SEED, 0)
    assert episode.camera_topic == JPEG_TOPIC
    _, stamp, image = next(images(bags / "episode_0000"))
    positions, _ = motion(episode.task, [(stamp - episode.start_ns) / 1e9])
    difference = np.abs(image.astype(int) - render(positions[0], episode.task.target_xy_m))
    assert 0 < difference.mean() < 3


def test_the_mcap_library_reads_types_times_and_counts(bags: Path) -> None:
    with (bags / "episode_0001" / "episode_0001.mcap").open("rb") as file:
        read = list(make_reader(file).iter_messages())
    counts = Counter((channel.topic, schema.name) for schema, channel, _ in read if schema)
    joints, images = (JOINT_TOPIC, "sensor_msgs/msg/JointState"), (JPEG_TOPIC, "sensor_msgs/msg/CompressedImage")
    assert counts == {joints: 1000, images: len(read) - 1000}
    times = [message.log_time for *_, message in read]
    assert times == sorted(times)
    assert EPOCH_NS + PERIOD_NS < times[0] < times[-1] < EPOCH_NS + PERIOD_NS + 2.1e9


def test_sqlite_reads_topics_types_and_counts(bags: Path) -> None:
    database = sqlite3.connect(bags / "episode_0002" / "episode_0002.db3")
    rows = database.execute(
        "SELECT name, type, count(*) FROM topics JOIN messages ON topics.id = topic_id GROUP BY topics.id"
    ).fetchall()
    database.close()
    assert rows[0] == ("/joint_states", "sensor_msgs/msg/JointState", 1000)
    assert rows[1][:2] == ("/camera/color/image_raw", "sensor_msgs/msg/Image")
    assert rows[1][2] in range(55, 61)


def test_two_workers_record_the_same_messages_as_one(bags: Path, tmp_path: Path) -> None:
    record(tmp_path / "bags", COUNT, SEED, workers=2)
    for name in every_bag():
        assert raw(tmp_path / "bags" / name) == raw(bags / name)
    assert (tmp_path / "bags" / "truth.json").read_bytes() == (bags / "truth.json").read_bytes()


def test_an_episode_does_not_depend_on_how_many_are_recorded(bags: Path, tmp_path: Path) -> None:
    record(tmp_path / "bags", 2, SEED)
    for name in every_bag(2):
        assert raw(tmp_path / "bags" / name) == raw(bags / name)


def test_another_seed_records_other_tasks() -> None:
    def task(seed: int) -> Episode:
        return plan_episode(seed, 0)

    assert np.any(task(0).task.target_xy_m != task(1).task.target_xy_m)
    assert np.any(task(0).camera_stamps.header_ns != task(1).camera_stamps.header_ns)


def test_a_finished_recording_is_left_alone(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in bags.rglob("*")}
    assert main(["--out", str(bags), "--episodes", str(COUNT), "--seed", str(SEED), "--workers", "1"]) == 0
    assert "already recorded" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*")} == before


@pytest.mark.parametrize("other", [["--seed", "5"], ["--episodes", "3"]])
def test_a_finished_recording_of_something_else_is_refused(bags: Path, other: list[str]) -> None:
    command = ["--out", str(bags), "--episodes", str(COUNT), "--seed", str(SEED), *other]
    with pytest.raises(UserError, match="another recording than"):
        main(command)


def test_an_unfinished_recording_of_something_else_is_refused(bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    out.mkdir()
    shutil.copy(bags / "truth.json", out)
    with pytest.raises(UserError, match="part of another recording"):
        record(out, COUNT, SEED + 1)


def test_a_folder_with_anything_else_in_it_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which is no recording"):
        record(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bags").write_text("mine")
    with pytest.raises(UserError, match="holds bags, which is no recording"):
        record(tmp_path / "bags", 1)


@pytest.mark.parametrize("flags", [["--episodes", "0"], ["--seed", "-1"], ["--workers", "0"], ["--episodes", "two"]])
def test_impossible_numbers_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(UserError, match=flags[0]):
        main(["--out", str(tmp_path / "bags"), *flags])
    assert not (tmp_path / "bags").exists()


def test_a_killed_recording_leaves_whole_bags_only_and_is_completed_by_the_same_command(
    bags: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bags"
    flags = ["--out", str(out), "--episodes", str(COUNT), "--seed", str(SEED), "--workers", "1"]
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, start_new_session=True) as killed:
        assert killed.wait(120) == -signal.SIGKILL
    assert group_ends(killed.pid)
    assert any(out.glob(".tmp-episode_0002-*"))
    survivors = sorted(path.name for path in out.glob("episode_*"))
    assert survivors == every_bag(2)
    assert not (out / "recording.json").exists()
    assert all(raw(out / name) == raw(bags / name) for name in survivors)

    assert main(flags) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*every_bag(), "recording.json", "truth.json"])
    assert all(raw(out / name) == raw(bags / name) for name in every_bag())
