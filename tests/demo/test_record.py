"""The recorder: what other readers find in its bags, and what it does with a folder that has something in it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from common.cli.command import UserError
from demo.arm import JOINT_NAMES, tool_position
from demo.expert import EPISODE_S, HOVER_M, motion, picture
from demo.record import JOINT_TOPIC, JPEG_TOPIC, RAW_TOPIC, Episode, main, plan_episode, record
from demo.scene import render
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

SEED, COUNT = 4, 8
IMAGES = round(EPISODE_S * 30)
NAMES = [f"episode_{index:04d}" for index in range(COUNT)]
Received = tuple[str, int, bytes]  # topic, bag time in ns, CDR


class Messages(NamedTuple):
    """The joint states or the RGB images of a bag, with header stamps and bag times (N,)."""

    values: list[Any]
    header_ns: np.ndarray
    receive_ns: np.ndarray


class Decoded(NamedTuple):
    """A bag as rosbags reads it, its images decoded without the recorder's help."""

    joints: Messages
    images: Messages


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "bags"
    assert record(out, COUNT, SEED)
    return out


@pytest.fixture(scope="module")
def truth(bags: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((bags / "truth.json").read_text())["bags"]
    return listed


@pytest.fixture(scope="module")
def decoded(bags: Path) -> list[Decoded]:
    return [decode(bags / name) for name in NAMES]


def decode(bag: Path) -> Decoded:
    joints: list[tuple[Any, int, int]] = []
    images: list[tuple[Any, int, int]] = []
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        for connection, received, data in reader.messages():
            message: Any = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            if connection.topic == JOINT_TOPIC:
                joints.append((message, stamp, received))
            else:
                images.append((decode_image(message), stamp, received))
    return Decoded(
        *(Messages([v for v, *_ in rows], *np.array([ns for _, *ns in rows]).T) for rows in (joints, images))
    )


def decode_image(message: Any) -> np.ndarray:
    if message.__msgtype__ == "sensor_msgs/msg/CompressedImage":
        assert message.format == "jpeg"
        return np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR))[..., ::-1]
    assert (message.encoding, message.is_bigendian, message.step) == ("rgb8", 0, message.width * 3)
    return np.asarray(message.data.reshape(message.height, message.width, 3))


def raw(bag: Path) -> list[Received]:
    with AnyReader([bag]) as reader:
        return [(connection.topic, received, bytes(data)) for connection, received, data in reader.messages()]


def test_storage_and_image_types_occur_in_all_four_combinations(bags: Path, truth: list[dict[str, Any]]) -> None:
    found = set()
    for name in NAMES:
        assert {path.stem for path in (bags / name).iterdir()} == {name, "metadata"}
        (storage,) = (path.suffix for path in (bags / name).iterdir() if path.suffix != ".yaml")
        found |= {(storage, topic) for topic, *_ in raw(bags / name) if topic != JOINT_TOPIC}
    assert found == {(storage, topic) for storage in (".db3", ".mcap") for topic in (RAW_TOPIC, JPEG_TOPIC)}
    assert {(bag["storage"], bag["camera_topic"]) for bag in truth} == {
        (storage, topic) for storage in ("sqlite3", "mcap") for topic in (RAW_TOPIC, JPEG_TOPIC)
    }


def test_joints_are_named_in_the_order_of_the_ur_driver(decoded: list[Decoded]) -> None:
    names = ["shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3", "shoulder_pan"]
    for message in decoded[0].joints.values:
        assert message.name == [f"{name}_joint" for name in names]


def test_a_motion_starts_at_the_start_and_ends_above_the_target(
    decoded: list[Decoded], truth: list[dict[str, Any]]
) -> None:
    first, last = decoded[1].joints.values[0], decoded[1].joints.values[-1]
    np.testing.assert_allclose(first.position, [truth[1]["start_joints"][joint] for joint in first.name], atol=1e-6)
    joints = dict(zip(last.name, last.position, strict=True))
    tip = tool_position([joints[joint] for joint in JOINT_NAMES])
    np.testing.assert_allclose(tip, [*truth[1]["target_xy_m"], HOVER_M], atol=1e-6)


def test_joint_states_come_at_500_hz_a_millisecond_after_their_stamp(decoded: list[Decoded]) -> None:
    bag = decoded[0]
    assert len(bag.joints.values) == round(EPISODE_S * 500)
    np.testing.assert_allclose(np.diff(bag.joints.header_ns), 2e6, atol=0.3e6)
    assert np.mean(bag.joints.receive_ns - bag.joints.header_ns) == pytest.approx(1e6, abs=0.1e6)


def test_images_come_near_30_hz_with_jitter_and_20_ms_late(decoded: list[Decoded]) -> None:
    bag = decoded[0]
    periods, latencies = np.diff(bag.images.header_ns), bag.images.receive_ns - bag.images.header_ns
    assert np.median(periods) == pytest.approx(1e9 / 30, abs=1e6)
    assert 1e6 < np.std(periods[periods < 50e6]) < 4e6
    assert np.mean(latencies) == pytest.approx(20e6, abs=1e6)
    assert np.std(latencies) > 0.1e6


def test_episodes_start_every_ten_seconds_and_their_joint_states_enclose_the_images(decoded: list[Decoded]) -> None:
    for index, bag in enumerate(decoded):
        joints, images = bag.joints.header_ns, bag.images.header_ns
        assert abs(joints[0] - (1_700_000_000 + 10 * index) * 10**9) < 1e6
        assert joints[0] < images[0] < images[-1] < joints[-1]


def test_the_gaps_in_the_bags_are_the_lost_frames_of_the_truth(
    decoded: list[Decoded], truth: list[dict[str, Any]]
) -> None:
    for bag, described in zip(decoded, truth, strict=True):
        gaps = np.flatnonzero(np.diff(bag.images.header_ns) > 50e6)
        numbers = gaps + 1 + np.arange(len(gaps))  # each gap shifts the numbers of the frames behind it by one
        assert numbers.tolist() == described["lost_frames"]
        assert len(bag.images.values) == IMAGES - len(described["lost_frames"])
    assert any(described["lost_frames"] for described in truth)


@pytest.mark.parametrize(("index", "topic", "most"), [(2, RAW_TOPIC, 0), (0, JPEG_TOPIC, 3)])
def test_an_image_shows_the_arm_when_it_was_taken_not_when_it_arrived(
    decoded: list[Decoded], index: int, topic: str, most: float
) -> None:
    episode, images = plan_episode(SEED, index), decoded[index].images
    assert episode.camera_topic == topic
    assert np.abs(images.values[20].astype(int) - rendered(episode, images.header_ns[20])).mean() <= most
    assert np.any(images.values[20] != rendered(episode, images.receive_ns[20]))


def rendered(episode: Episode, time_ns: int) -> np.ndarray:
    positions, _ = motion(episode.task, [(time_ns - episode.start_ns) / 1e9])
    return render(positions[0], episode.task.target_xy_m)


def test_the_other_cell_films_the_same_tasks() -> None:
    front, side = plan_episode(SEED, 0), plan_episode(SEED, 0, "side")
    assert np.array_equal(side.task.target_xy_m, front.task.target_xy_m)
    assert not np.array_equal(picture(side.task, front.task.start), picture(front.task, front.task.start))


@pytest.mark.parametrize("other", [{"seed": SEED + 1}, {"episodes": 3}, {"cell": "side"}])
def test_another_recording_is_refused(bags: Path, other: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"episodes": COUNT, "seed": SEED} | other
    with pytest.raises(UserError, match="another recording than"):
        record(bags, **wanted)


def test_a_recording_that_lacks_a_bag_is_not_taken_for_complete(bags: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bags, tmp_path / "bags"))
    assert not record(folder, COUNT, SEED)
    shutil.rmtree(next(folder.glob("episode_*")))
    with pytest.raises(UserError, match="lacks bags of its recording; remove it or give another --out"):
        record(folder, COUNT, SEED)


def test_a_folder_of_other_files_or_a_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UserError, match=r"holds thesis\.txt, which does not belong to an earlier recording"):
            record(out, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("flags", [["--episodes", "0"], ["--seed", "-1"], ["--workers", "0"], ["--episodes", "two"]])
def test_impossible_numbers_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(UserError, match=flags[0]):
        main(["--out", str(tmp_path / "bags"), *flags])
    assert not (tmp_path / "bags").exists()


def test_a_killed_recording_starts_again_with_the_same_command(bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    flags = ["--out", out, "--episodes", COUNT, "--seed", SEED, "--workers", 2]
    process = subprocess.Popen([sys.executable, "-m", "demo.record", *map(str, flags)], cwd=ROOT)
    while not list(tmp_path.glob(f".tmp-bags-*/{NAMES[1]}/metadata.yaml")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not out.exists()
    assert main([str(flag) for flag in flags]) == 0
    assert sorted(path.name for path in out.iterdir()) == [*NAMES, "truth.json"]
    assert all(raw(out / name) == raw(bags / name) for name in NAMES)
    assert (out / "truth.json").read_bytes() == (bags / "truth.json").read_bytes()
