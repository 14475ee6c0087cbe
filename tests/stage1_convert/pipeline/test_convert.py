"""Whole conversions, held against an independent reader of the bags and an independent reader of the dataset."""

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from common.lerobot.dataset import Dataset
from stage1_convert.check import check
from tests.stage1_convert import reference
from tests.stage1_convert.conversion import jpegs, report, rows, run, tree
from tests.stage1_convert.recording import (
    COMPRESSED,
    DRIVER_JOINTS,
    HEIGHT,
    IMAGE,
    JOINT_STATE,
    JOINT_TOPIC,
    JOINTS,
    JPEG_TOPIC,
    MS,
    RAW_TOPIC,
    WIDTH,
    Compression,
    Recording,
    Said,
    Storage,
    cell,
    compressed_image,
    decode,
    draw,
    joint_state,
    jpeg,
    number_in,
    raw_image,
)


def steps(states: list[list[float]]) -> list[list[float]]:
    """Return the delta actions of one episode by plain loops."""
    following = [*states[1:], states[-1]]
    return [
        [math.remainder(there - here, math.tau) for here, there in zip(*pair, strict=True)]
        for pair in zip(states, following, strict=True)
    ]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_value_of_a_jpeg_bag_equals_an_independent_decoding(tmp_path: Path, storage: Storage) -> None:
    bags = [cell(seed=seed).write(tmp_path / "src" / f"bag{seed}", storage) for seed in range(3)]
    run(tmp_path / "src", tmp_path / "out")
    table, at = rows(tmp_path / "out"), 0
    for number, bag in enumerate(bags):
        joints = reference.joint_samples(bag, JOINT_TOPIC, JOINTS)
        frames = reference.hold([joints, reference.compressed_samples(bag, JPEG_TOPIC)], 30)
        part = table[table["episode_index"] == number]
        assert len(part) == len(frames) > 40
        states = [values[0] for _, values in frames]
        np.testing.assert_array_equal(np.stack(part["observation.state"]), np.array(states, np.float32))
        np.testing.assert_allclose(np.stack(part["action"]), np.array(steps(states), np.float32), rtol=0, atol=1e-9)
        assert [shown["bytes"] for shown in part["observation.images.color"]] == [values[1] for _, values in frames]
        assert [shown["path"] for shown in part["observation.images.color"]][12] == "frame-000012.jpg"
        assert list(part["timestamp"]) == [np.float32(k / 30) for k in range(len(frames))]
        assert list(part["frame_index"]) == list(range(len(frames)))
        assert list(part["index"]) == list(range(at, at + len(frames)))
        assert set(part["task_index"]) == {0}
        at += len(frames)
    assert len(table) == at


def test_the_sources_of_every_frame_can_be_traced(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    sources = pd.read_parquet(tmp_path / "out" / "meta" / "sync" / "chunk-000" / "file-000.parquet")
    images = reference.compressed_samples(bag, JPEG_TOPIC)
    joints = reference.joint_samples(bag, JOINT_TOPIC, JOINTS)
    frames = reference.hold([joints, images], 30)
    assert list(sources["tick_ns"]) == [tick_ns for tick_ns, _ in frames]
    traced = [images[number] for number in sources["color.message"]]
    assert [sample.value for sample in traced] == jpegs(tmp_path / "out")
    assert [sample.stamp_ns for sample in traced] == list(sources["color.stamp_ns"])
    assert [joints[number].value for number in sources["joints.message"]] == [values[0] for _, values in frames]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_raw_images_are_stored_as_near_identical_jpeg(tmp_path: Path, storage: Storage) -> None:
    bag = cell(topic=RAW_TOPIC).write(tmp_path / "src" / "bag", storage)
    run(tmp_path / "src", tmp_path / "out")
    frames = reference.hold(
        [reference.joint_samples(bag, JOINT_TOPIC, JOINTS), reference.raw_samples(bag, RAW_TOPIC)], 30
    )
    dataset = Dataset.open(tmp_path / "out")
    images = list(dataset.images(dataset.episodes[0], "color"))
    assert len(images) == len(frames)
    for image, (_, (_, (height, width, _, pixels))) in zip(images, frames, strict=True):
        recorded = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        assert number_in(image) == number_in(recorded)
        assert np.abs(image.astype(int) - recorded).mean() < 4


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("bgr8", cv2.COLOR_RGB2BGR),
        ("rgba8", cv2.COLOR_RGB2RGBA),
        ("bgra8", cv2.COLOR_RGB2BGRA),
        ("mono8", cv2.COLOR_RGB2GRAY),
    ],
)
def test_encodings_and_padded_rows_give_the_same_dataset_as_plain_rgb(tmp_path: Path, encoding: str, code: int) -> None:
    plain, other = cell(topic=RAW_TOPIC), cell(topic=RAW_TOPIC)
    gray = encoding == "mono8"
    for recording, padding in ((plain, 0), (other, 13)):
        for at, said in enumerate(recording.images):
            stamp = said.message.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            image = draw(at)
            if gray:
                image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.uint8)
            message = raw_image(stamp_ns, image)
            if padding:
                recoded = np.asarray(cv2.cvtColor(image, code), np.uint8)
                message = raw_image(stamp_ns, recoded, encoding, padding)
            recording.images[at] = said._replace(message=message)
    plain.write(tmp_path / "plain" / "bag")
    other.write(tmp_path / "other" / "bag")
    run(tmp_path / "plain", tmp_path / "plain.out")
    run(tmp_path / "other", tmp_path / "other.out")
    assert jpegs(tmp_path / "plain.out") == jpegs(tmp_path / "other.out")


def test_a_png_becomes_a_jpeg_of_the_same_image(tmp_path: Path) -> None:
    recording = cell()
    for at, said in enumerate(recording.images):
        png = cv2.imencode(".png", cv2.cvtColor(draw(at), cv2.COLOR_RGB2BGR))[1].tobytes()
        stamp = said.message.header.stamp
        message = compressed_image(stamp.sec * 10**9 + stamp.nanosec, png, "rgb8; png compressed")
        recording.images[at] = said._replace(message=message)
    recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    first = jpegs(tmp_path / "out")[0]
    assert first.startswith(b"\xff\xd8")
    image = decode(first)
    assert np.abs(image.astype(int) - draw(number_in(image))).mean() < 4


def test_a_gray_jpeg_is_stored_with_three_channels(tmp_path: Path) -> None:
    recording = cell()
    for at, said in enumerate(recording.images):
        gray = cv2.imencode(".jpg", cv2.cvtColor(draw(at), cv2.COLOR_RGB2GRAY))[1].tobytes()
        stamp = said.message.header.stamp
        recording.images[at] = said._replace(
            message=compressed_image(stamp.sec * 10**9 + stamp.nanosec, gray, "mono8; jpeg")
        )
    recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    stored = cv2.imdecode(np.frombuffer(jpegs(tmp_path / "out")[0], np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.shape == (HEIGHT, WIDTH, 3)


def test_images_are_resized_on_demand(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "conventions.image_resize=[24, 32]")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.cameras == {"color": (24, 32, 3)}
    image = next(iter(dataset.images(dataset.episodes[0], "color")))
    shown = decode(jpeg(draw(number_of_first(tmp_path / "src"))))
    expected = cv2.resize(shown, (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 3


def number_of_first(src: Path) -> int:
    """Return the number of the image that the first frame shows when nothing is resized."""
    run(src, src.parent / "plain")
    return number_in(decode(jpegs(src.parent / "plain")[0]))


def test_statistics_cover_every_value_and_every_pixel(tmp_path: Path) -> None:
    cell(seed=1, seconds=3.0).write(tmp_path / "src" / "a")  # more rows than are written at a time
    cell(seed=2, seconds=1.0).write(tmp_path / "src" / "b")
    run(tmp_path / "src", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    images = np.stack([image for episode in dataset.episodes for image in dataset.images(episode, "color")])
    pixels = images.reshape(-1, 3) / 255
    found = dataset.stats["observation.images.color"]
    assert found["count"].tolist() == [dataset.n_frames]
    assert found["mean"].shape == (3, 1, 1)
    expected_stats = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    for name, expected in expected_stats.items():
        np.testing.assert_allclose(found[name].ravel(), expected, rtol=0, atol=1e-12, err_msg=name)
    actions = np.stack(rows(tmp_path / "out")["action"]).astype(np.float64)
    np.testing.assert_allclose(dataset.stats["action"]["std"], actions.std(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.stats["action"]["q10"], np.quantile(actions, 0.1, axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.stats["index"]["max"], [dataset.n_frames - 1])


def test_statistics_of_images_compressed_here_are_of_those_before_that_and_the_record_says_so(tmp_path: Path) -> None:
    cell(topic=RAW_TOPIC).write(tmp_path / "src" / "raw")
    run(tmp_path / "src", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    shown = [number_in(image) for image in dataset.images(dataset.episodes[0], "color")]
    pixels = np.stack([draw(number) for number in shown]).reshape(-1, 3) / 255
    found = dataset.stats["observation.images.color"]
    for name, expected in {"min": pixels.min(0), "mean": pixels.mean(0), "std": pixels.std(0)}.items():
        np.testing.assert_allclose(found[name].ravel(), expected, rtol=0, atol=1e-12, err_msg=name)
    assert report(tmp_path / "out")["bags"][0]["compressed"] == ["color"]
    assert not check(tmp_path / "out").findings


def test_a_joint_order_that_switches_midway_is_followed_by_name(tmp_path: Path) -> None:
    switched, plain = cell(), cell()
    for at in range(70, len(switched.joints)):
        said = switched.joints[at]
        stamp = said.message.header.stamp
        by_name = dict(zip(said.message.name, said.message.position, strict=True))
        names = sorted(DRIVER_JOINTS)
        message = joint_state(stamp.sec * 10**9 + stamp.nanosec, names, [by_name[name] for name in names])
        switched.joints[at] = said._replace(message=message)
    switched.write(tmp_path / "switched" / "bag")
    plain.write(tmp_path / "plain" / "bag")
    run(tmp_path / "switched", tmp_path / "switched.out")
    run(tmp_path / "plain", tmp_path / "plain.out")
    left, right = rows(tmp_path / "switched.out"), rows(tmp_path / "plain.out")
    np.testing.assert_array_equal(np.stack(left["observation.state"]), np.stack(right["observation.state"]))


def test_a_gripper_among_the_joints_changes_nothing(tmp_path: Path) -> None:
    gripped, plain = cell(), cell()
    for at, said in enumerate(gripped.joints):
        stamp = said.message.header.stamp
        names = ["finger_joint", *said.message.name]
        message = joint_state(stamp.sec * 10**9 + stamp.nanosec, names, [0.7, *said.message.position])
        gripped.joints[at] = said._replace(message=message)
    gripped.write(tmp_path / "gripped" / "bag")
    plain.write(tmp_path / "plain" / "bag")
    run(tmp_path / "gripped", tmp_path / "gripped.out")
    run(tmp_path / "plain", tmp_path / "plain.out")
    assert (tmp_path / "gripped.out/data/chunk-000/file-000.parquet").read_bytes() == (
        tmp_path / "plain.out/data/chunk-000/file-000.parquet"
    ).read_bytes()


def test_a_gripper_with_messages_of_its_own_on_the_topic_changes_nothing(tmp_path: Path) -> None:
    mixed, plain = cell(), cell()
    for said in plain.joints:
        stamp_ns = said.receive_ns + MS // 2
        message = joint_state(stamp_ns, ["finger_joint"], [0.7])
        mixed.others.append(Said(stamp_ns, JOINT_TOPIC, JOINT_STATE, message))
    mixed.write(tmp_path / "mixed" / "bag")
    plain.write(tmp_path / "plain" / "bag")
    run(tmp_path / "mixed", tmp_path / "mixed.out")
    run(tmp_path / "plain", tmp_path / "plain.out")
    assert jpegs(tmp_path / "mixed.out") == jpegs(tmp_path / "plain.out")
    mixed_states, plain_states = (
        np.stack(rows(tmp_path / name)["observation.state"]) for name in ("mixed.out", "plain.out")
    )
    np.testing.assert_array_equal(mixed_states, plain_states)


def crossing() -> Recording:
    """Return a recording whose first joint turns steadily through pi, published in (-pi, pi]."""
    recording = cell()
    for at, said in enumerate(recording.joints):
        stamp = said.message.header.stamp
        angle = math.remainder(2.5 + at * 0.01, math.tau)
        message = joint_state(stamp.sec * 10**9 + stamp.nanosec, JOINTS, [angle, 0, 0, 0, 0, 0])
        recording.joints[at] = said._replace(message=message)
    return recording


def test_the_action_crosses_pi_the_shorter_way(tmp_path: Path) -> None:
    crossing().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    states, actions = (np.stack(rows(tmp_path / "out")[key])[:, 0] for key in ("observation.state", "action"))
    assert states.min() < -3 < 3 < states.max()
    assert 0.0 < actions[:-1].min() <= actions[:-1].max() < 0.06
    assert actions[-1] == 0


def test_linear_resampling_crosses_pi_the_shorter_way(tmp_path: Path) -> None:
    crossing().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "data.resample=linear", "conventions.wrap_angles=true")
    states = np.stack(rows(tmp_path / "out")["observation.state"])[:, 0]
    moves = np.array([math.remainder(step, math.tau) for step in np.diff(states)])
    assert np.abs(states).max() <= np.float32(np.pi)
    assert 0.02 < moves.min() <= moves.max() < 0.05


def test_next_position_actions_are_the_following_state_and_say_so(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "conventions.action=next_position")
    states, actions = (np.stack(rows(tmp_path / "out")[key]) for key in ("observation.state", "action"))
    np.testing.assert_array_equal(actions, np.concatenate([states[1:], states[-1:]]))
    dataset = Dataset.open(tmp_path / "out")
    assert (dataset.action_meaning, dataset.action_wrapped) == ("next_position", False)


def test_joint_signs_are_applied_when_asked_for(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "plain")
    run(tmp_path / "src", tmp_path / "signed", "conventions.apply_joint_sign=true")
    plain, signed = (np.stack(rows(tmp_path / name)["observation.state"]) for name in ("plain", "signed"))
    np.testing.assert_array_equal(signed, plain * np.array([1, -1, -1, 1, 1, 1], np.float32))


def test_a_lost_frame_is_held_and_counted(tmp_path: Path) -> None:
    recording = cell(seed=4)
    del recording.images[20]
    bag = recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    shown = jpegs(tmp_path / "out")
    images = [sample.value for sample in reference.compressed_samples(bag, JPEG_TOPIC)]
    assert shown.count(images[19]) >= 2
    (episode,) = report(tmp_path / "out")["bags"][0]["episodes"]
    assert episode["held"]["color"] == sum(a == b for a, b in itertools.pairwise(shown)) > 0


def test_a_gap_splits_the_episode_and_time_starts_anew(tmp_path: Path) -> None:
    recording = cell(seconds=3.0)
    del recording.images[40:55]
    recording.write(tmp_path / "src" / "bag")
    summary = run(tmp_path / "src", tmp_path / "out")
    assert summary.episodes == 2
    table = rows(tmp_path / "out")
    assert list(table["timestamp"][table["episode_index"] == 1])[:2] == [0, np.float32(1 / 30)]
    actions = np.stack(table["action"])
    for number in (0, 1):
        assert not actions[table["episode_index"] == number][-1].any()
    (bag,) = report(tmp_path / "out")["bags"]
    (gap,) = bag["gaps"]
    assert gap["streams"] == ["color"]
    first, second = bag["episodes"]
    assert gap["start_ns"] == first["start_ns"] + first["frames"] * 10**9 // 30
    # The hole is 15 of 90 frames long; 100 ms of it are bridged by the last image before it.
    assert 11 <= gap["frames"] <= 14
    assert first["frames"] + gap["frames"] + second["frames"] == pytest.approx(88, abs=2)


def test_a_piece_that_is_too_short_is_left_out_and_counted(tmp_path: Path) -> None:
    recording = cell(seconds=3.0)
    del recording.images[10:60]
    recording.write(tmp_path / "src" / "bag")
    assert run(tmp_path / "src", tmp_path / "out").episodes == 1
    (piece,) = report(tmp_path / "out")["bags"][0]["left_out"]
    assert 9 <= piece["frames"] <= 14


def test_two_cameras_give_two_columns(tmp_path: Path) -> None:
    recording, wrist = cell(), cell(seed=7, size=(32, 40), topic=RAW_TOPIC)
    recording.others = [said._replace(topic="/wrist/image") for said in wrist.images[2:-3]]
    bag = recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", f"data.cameras={{color: {RAW_TOPIC}, wrist: /wrist/image}}")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.cameras == {"color": (HEIGHT, WIDTH, 3), "wrist": (32, 40, 3)}
    samples = [
        reference.joint_samples(bag, JOINT_TOPIC, JOINTS),
        reference.compressed_samples(bag, JPEG_TOPIC),
        reference.raw_samples(bag, "/wrist/image"),
    ]
    frames = reference.hold(samples, 30)
    assert jpegs(tmp_path / "out") == [values[1] for _, values in frames]
    numbers = [number_in(np.frombuffer(values[2][3], np.uint8).reshape(32, 40, 3)) for _, values in frames]
    assert [number_in(image) for image in dataset.images(dataset.episodes[0], "wrist")] == numbers


def test_the_compressed_topic_is_preferred_and_recorded(tmp_path: Path) -> None:
    recording = cell()
    recording.others = [said._replace(topic=RAW_TOPIC) for said in cell(topic=RAW_TOPIC).images]
    assert recording.others[0].type == IMAGE != COMPRESSED
    recording.write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    assert list(report(tmp_path / "out")["bags"][0]["messages"]) == [JOINT_TOPIC, JPEG_TOPIC]


@pytest.mark.parametrize("compression", ["file", "message"])
def test_compressed_bags_give_the_same_rows(tmp_path: Path, compression: Compression) -> None:
    cell().write(tmp_path / "plain" / "bag", "sqlite3")
    cell().write(tmp_path / "packed" / "bag", "sqlite3", compression)
    run(tmp_path / "plain", tmp_path / "plain.out")
    run(tmp_path / "packed", tmp_path / "packed.out")
    left, right = tree(tmp_path / "plain.out"), tree(tmp_path / "packed.out")
    assert left.pop("meta/conversion.json") != right.pop("meta/conversion.json")
    assert left == right


def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path) -> None:
    for seed in range(4):
        cell(seed=seed, seconds=1.0).write(tmp_path / "src" / f"bag{seed}", "sqlite3" if seed % 2 else "mcap")
    short = cell(seconds=0.3)
    short.write(tmp_path / "src" / "bag1b")
    trees = []
    for workers in (1, 2, 5):
        run(tmp_path / "src", tmp_path / f"out{workers}", workers=workers)
        trees.append(tree(tmp_path / f"out{workers}"))
    assert trees[0] == trees[1] == trees[2]
    assert not any(str(tmp_path).encode() in data for data in trees[0].values())
