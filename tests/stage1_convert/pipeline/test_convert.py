"""Whole conversions, held against an independent reader of the bags and an independent reader of the dataset."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from common.lerobot.dataset import Dataset
from stage1_convert.check import check
from tests.stage1_convert import reference
from tests.stage1_convert.conversion import convert_one, jpegs, report, rows, run, tree
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
    RecordedMessage,
    Recording,
    Storage,
    cell,
    compressed_image,
    decode,
    draw,
    joint_state,
    jpeg,
    number_in,
    raw_image,
    stamp_of,
)

COLOR = "observation.images.color"


def steps(states: list[list[float]]) -> list[list[float]]:
    """Return the delta actions of one episode by plain loops."""
    following = [*states[1:], states[-1]]
    return [
        [math.remainder(there - here, math.tau) for here, there in zip(*pair, strict=True)]
        for pair in zip(states, following, strict=True)
    ]


def with_images(recording: Recording, make: Callable[[int, int], Any]) -> Recording:
    """Replace every image by make(number, stamp_ns)."""
    recording.images = [
        said._replace(message=make(number, stamp_of(said))) for number, said in enumerate(recording.images)
    ]
    return recording


def with_joints(recording: Recording, make: Callable[[int, RecordedMessage], Any]) -> Recording:
    """Replace every joint message by make(number, the message)."""
    recording.joints = [said._replace(message=make(number, said)) for number, said in enumerate(recording.joints)]
    return recording


def vectors(dataset: Path, *keys: str) -> list[Any]:
    """Return columns as arrays (rows, dimensions)."""
    table = rows(dataset)
    return [np.stack(table[key]) for key in keys]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_value_of_a_jpeg_bag_equals_an_independent_decoding(tmp_path: Path, storage: Storage) -> None:
    bags = [cell(seed=seed).write(tmp_path / "src" / f"bag{seed}", storage) for seed in range(3)]
    run(tmp_path / "src", tmp_path / "out")
    table, first = rows(tmp_path / "out"), 0
    for number, bag in enumerate(bags):
        joints = reference.joint_samples(bag, JOINT_TOPIC, JOINTS)
        frames = reference.show({"joints": joints, "color": reference.compressed_samples(bag, JPEG_TOPIC)})
        part = table[table["episode_index"] == number]
        assert len(part) == len(frames) > 40
        states = [shown["joints"].value for _, shown in frames]
        np.testing.assert_array_equal(np.stack(part["observation.state"]), np.array(states, np.float32))
        np.testing.assert_allclose(np.stack(part["action"]), np.array(steps(states), np.float32), rtol=0, atol=1e-9)
        assert [shown["bytes"] for shown in part[COLOR]] == [shown["color"].value for _, shown in frames]
        assert [shown["path"] for shown in part[COLOR]][12] == "frame-000012.jpg"
        assert list(part["timestamp"]) == [np.float32(k / 30) for k in range(len(frames))]
        assert list(part["frame_index"]) == list(range(len(frames)))
        assert list(part["index"]) == list(range(first, first + len(frames)))
        assert set(part["task_index"]) == {0}
        first += len(frames)
    assert len(table) == first
    assert not any(str(tmp_path).encode() in data for data in tree(tmp_path / "out").values())


def test_the_sources_of_every_frame_can_be_traced(tmp_path: Path) -> None:
    out = convert_one(tmp_path, cell())
    sources = pd.read_parquet(out / "meta" / "sync" / "chunk-000" / "file-000.parquet")
    images = reference.compressed_samples(tmp_path / "src" / "bag", JPEG_TOPIC)
    joints = reference.joint_samples(tmp_path / "src" / "bag", JOINT_TOPIC, JOINTS)
    frames = reference.show({"joints": joints, "color": images})
    assert list(sources["tick_ns"]) == [tick_ns for tick_ns, _ in frames]
    traced = [images[number] for number in sources["color.message"]]
    assert [sample.value for sample in traced] == jpegs(out)
    assert [sample.stamp_ns for sample in traced] == list(sources["color.stamp_ns"])
    assert [joints[number].value for number in sources["joints.message"]] == [
        shown["joints"].value for _, shown in frames
    ]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_raw_images_are_stored_as_near_identical_jpeg(tmp_path: Path, storage: Storage) -> None:
    bag = cell(topic=RAW_TOPIC).write(tmp_path / "src" / "bag", storage)
    run(tmp_path / "src", tmp_path / "out")
    joints, color = reference.joint_samples(bag, JOINT_TOPIC, JOINTS), reference.raw_samples(bag, RAW_TOPIC)
    frames = reference.show({"joints": joints, "color": color})
    dataset = Dataset.open(tmp_path / "out")
    images = list(dataset.images(dataset.episodes[0], "color"))
    for image, (_, shown) in zip(images, frames, strict=True):
        height, width, _, pixels = shown["color"].value
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
    def rgb(number: int) -> Any:
        image = draw(number)
        if encoding != "mono8":
            return image
        return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.uint8)

    def recoded(number: int) -> Any:
        return np.asarray(cv2.cvtColor(rgb(number), code), np.uint8)

    plain = with_images(cell(topic=RAW_TOPIC), lambda number, ns: raw_image(ns, rgb(number)))
    other = with_images(cell(topic=RAW_TOPIC), lambda number, ns: raw_image(ns, recoded(number), encoding, 13))
    assert jpegs(convert_one(tmp_path / "plain", plain)) == jpegs(convert_one(tmp_path / "other", other))


def test_a_png_becomes_a_jpeg_of_the_same_image(tmp_path: Path) -> None:
    def png(number: int, stamp_ns: int) -> Any:
        data = cv2.imencode(".png", cv2.cvtColor(draw(number), cv2.COLOR_RGB2BGR))[1].tobytes()
        return compressed_image(stamp_ns, data, "rgb8; png compressed")

    first = jpegs(convert_one(tmp_path, with_images(cell(), png)))[0]
    assert first.startswith(b"\xff\xd8")
    image = decode(first)
    assert np.abs(image.astype(int) - draw(number_in(image))).mean() < 4


def test_a_gray_jpeg_is_stored_with_three_channels(tmp_path: Path) -> None:
    def gray(number: int, stamp_ns: int) -> Any:
        data = cv2.imencode(".jpg", cv2.cvtColor(draw(number), cv2.COLOR_RGB2GRAY))[1].tobytes()
        return compressed_image(stamp_ns, data, "mono8; jpeg")

    first = jpegs(convert_one(tmp_path, with_images(cell(), gray)))[0]
    stored = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.shape == (HEIGHT, WIDTH, 3)


def test_images_are_resized_on_demand(tmp_path: Path) -> None:
    number = number_in(decode(jpegs(convert_one(tmp_path / "plain", cell()))[0]))
    dataset = Dataset.open(convert_one(tmp_path / "small", cell(), "conventions.image_resize=[24, 32]"))
    assert dataset.cameras == {"color": (24, 32, 3)}
    image = next(iter(dataset.images(dataset.episodes[0], "color")))
    expected = cv2.resize(decode(jpeg(draw(number))), (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 3


def test_statistics_cover_every_row_and_the_pixels_of_short_episodes(tmp_path: Path) -> None:
    cell(seed=1, seconds=3.0).write(tmp_path / "src" / "a")  # more rows than are written at a time
    cell(seed=2, seconds=1.0).write(tmp_path / "src" / "b")
    run(tmp_path / "src", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    images = np.stack([image for episode in dataset.episodes for image in dataset.images(episode, "color")])
    found = dataset.stats[COLOR]
    assert found["count"].tolist() == [dataset.n_frames]
    assert found["mean"].shape == (3, 1, 1)
    assert_near_pixels(found, images)
    actions = np.stack(rows(tmp_path / "out")["action"]).astype(np.float64)
    np.testing.assert_allclose(dataset.stats["action"]["std"], actions.std(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.stats["action"]["q10"], np.quantile(actions, 0.1, axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.stats["index"]["max"], [dataset.n_frames - 1])


def assert_near_pixels(found: dict[str, Any], images: Any) -> None:
    pixels = images.reshape(-1, 3) / 255
    expected = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].ravel(), value, rtol=0, atol=1e-12, err_msg=name)


def test_images_compressed_here_are_measured_before_that_and_the_record_says_so(tmp_path: Path) -> None:
    out = convert_one(tmp_path, cell(topic=RAW_TOPIC))
    dataset = Dataset.open(out)
    shown = [number_in(image) for image in dataset.images(dataset.episodes[0], "color")]
    assert_near_pixels(dataset.stats[COLOR], np.stack([draw(number) for number in shown]))
    assert report(out)["bags"][0]["compressed"] == ["color"]
    assert not check(out).findings


def switched_midway(number: int, said: RecordedMessage) -> Any:
    """Joints in another order from the 70th message on."""
    if number < 70:
        return said.message
    angle_of = dict(zip(said.message.name, said.message.position, strict=True))
    names = sorted(DRIVER_JOINTS)
    return joint_state(stamp_of(said), names, [angle_of[name] for name in names])


def with_gripper(_: int, said: RecordedMessage) -> Any:
    """A gripper's joint in front of the others."""
    return joint_state(stamp_of(said), ["finger_joint", *said.message.name], [0.7, *said.message.position])


@pytest.mark.parametrize("change", [switched_midway, with_gripper])
def test_joints_are_followed_by_name(tmp_path: Path, change: Callable[[int, RecordedMessage], Any]) -> None:
    plain, changed = convert_one(tmp_path / "plain", cell()), with_joints(cell(), change)
    data = "data/chunk-000/file-000.parquet"
    assert (convert_one(tmp_path / "changed", changed) / data).read_bytes() == (plain / data).read_bytes()


def test_a_gripper_with_messages_of_its_own_on_the_topic_changes_nothing(tmp_path: Path) -> None:
    mixed = cell()
    for said in mixed.joints:
        stamp_ns = said.receive_ns + MS // 2
        mixed.others.append(
            RecordedMessage(stamp_ns, JOINT_TOPIC, JOINT_STATE, joint_state(stamp_ns, ["finger_joint"], [0.7]))
        )
    outs = [convert_one(tmp_path / "mixed", mixed), convert_one(tmp_path / "plain", cell())]
    assert jpegs(outs[0]) == jpegs(outs[1])
    np.testing.assert_array_equal(*(vectors(out, "observation.state")[0] for out in outs))


def crossing() -> Recording:
    """Return a recording whose first joint turns steadily through pi, published in (-pi, pi]."""

    def turned(number: int, said: RecordedMessage) -> Any:
        angle = math.remainder(2.5 + number * 0.01, math.tau)
        return joint_state(stamp_of(said), JOINTS, [angle, 0, 0, 0, 0, 0])

    return with_joints(cell(), turned)


def test_the_action_crosses_pi_the_shorter_way(tmp_path: Path) -> None:
    states, actions = (
        values[:, 0] for values in vectors(convert_one(tmp_path, crossing()), "observation.state", "action")
    )
    assert states.min() < -3 < 3 < states.max()
    assert 0.0 < actions[:-1].min() <= actions[:-1].max() < 0.06
    assert actions[-1] == 0


def test_linear_resampling_crosses_pi_the_shorter_way(tmp_path: Path) -> None:
    out = convert_one(tmp_path, crossing(), "data.resample=linear", "conventions.wrap_angles=true")
    states = vectors(out, "observation.state")[0][:, 0]
    moves = np.array([math.remainder(step, math.tau) for step in np.diff(states)])
    assert np.abs(states).max() <= np.float32(np.pi)
    assert 0.02 < moves.min() <= moves.max() < 0.05


def test_next_position_actions_are_the_following_state_and_say_so(tmp_path: Path) -> None:
    out = convert_one(tmp_path, cell(), "conventions.action=next_position")
    states, actions = vectors(out, "observation.state", "action")
    np.testing.assert_array_equal(actions, np.concatenate([states[1:], states[-1:]]))
    dataset = Dataset.open(out)
    assert (dataset.action_meaning, dataset.action_wrapped) == ("next_position", False)


def test_joint_signs_are_applied_when_asked_for(tmp_path: Path) -> None:
    (plain,) = vectors(convert_one(tmp_path / "plain", cell()), "observation.state")
    (signed,) = vectors(
        convert_one(tmp_path / "signed", cell(), "conventions.apply_joint_sign=true"), "observation.state"
    )
    np.testing.assert_array_equal(signed, plain * np.array([1, -1, -1, 1, 1, 1], np.float32))


def test_a_lost_image_repeats_the_one_before_and_is_counted(tmp_path: Path) -> None:
    recording = cell(seed=4)
    del recording.images[20]
    out = convert_one(tmp_path, recording)
    shown = jpegs(out)
    images = [sample.value for sample in reference.compressed_samples(tmp_path / "src" / "bag", JPEG_TOPIC)]
    assert shown.count(images[19]) == 2
    (episode,) = report(out)["bags"][0]["episodes"]
    assert sum(a == b for a, b in itertools.pairwise(shown)) == 1
    counts = {name: episode[name]["color"] for name in ("repeated", "passed_over", "lost", "unavoidable", "excess")}
    assert counts == {"repeated": 1, "passed_over": 0, "lost": 1, "unavoidable": 0, "excess": 0}


def test_a_gap_splits_the_episode_and_time_starts_again_at_zero(tmp_path: Path) -> None:
    recording = cell(seconds=3.0)
    del recording.images[40:55]
    out = convert_one(tmp_path, recording)
    table = rows(out)
    assert set(table["episode_index"]) == {0, 1}
    assert list(table["timestamp"][table["episode_index"] == 1])[:2] == [0, np.float32(1 / 30)]
    actions = np.stack(table["action"])
    for number in (0, 1):
        assert not actions[table["episode_index"] == number][-1].any()
    (bag,) = report(out)["bags"]
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
    (bag,) = report(convert_one(tmp_path, recording))["bags"]
    assert len(bag["episodes"]) == 1
    (piece,) = bag["left_out"]
    assert 9 <= piece["frames"] <= 14


def test_two_cameras_give_two_columns(tmp_path: Path) -> None:
    recording, wrist = cell(), cell(seed=7, size=(32, 40), topic=RAW_TOPIC)
    recording.others = [said._replace(topic="/wrist/image") for said in wrist.images[2:-3]]
    out = convert_one(tmp_path, recording, f"data.cameras={{color: {RAW_TOPIC}, wrist: /wrist/image}}")
    dataset, bag = Dataset.open(out), tmp_path / "src" / "bag"
    assert dataset.cameras == {"color": (HEIGHT, WIDTH, 3), "wrist": (32, 40, 3)}
    samples = {
        "joints": reference.joint_samples(bag, JOINT_TOPIC, JOINTS),
        "color": reference.compressed_samples(bag, JPEG_TOPIC),
        "wrist": reference.raw_samples(bag, "/wrist/image"),
    }
    frames = [shown for _, shown in reference.show(samples, in_order=("color", "wrist"))]
    assert jpegs(out) == [shown["color"].value for shown in frames]
    pixels = [np.frombuffer(shown["wrist"].value[3], np.uint8).reshape(32, 40, 3) for shown in frames]
    numbers = [number_in(image) for image in pixels]
    assert [number_in(image) for image in dataset.images(dataset.episodes[0], "wrist")] == numbers


def test_the_compressed_topic_is_preferred_and_recorded(tmp_path: Path) -> None:
    recording = cell()
    recording.others = [said._replace(topic=RAW_TOPIC) for said in cell(topic=RAW_TOPIC).images]
    assert recording.others[0].type == IMAGE != COMPRESSED
    assert list(report(convert_one(tmp_path, recording))["bags"][0]["messages"]) == [JOINT_TOPIC, JPEG_TOPIC]


@pytest.mark.parametrize("compression", ["file", "message"])
def test_compressed_bags_give_the_same_rows(tmp_path: Path, compression: Compression) -> None:
    cell().write(tmp_path / "plain" / "bag", "sqlite3")
    cell().write(tmp_path / "packed" / "bag", "sqlite3", compression)
    for name in ("plain", "packed"):
        run(tmp_path / name, tmp_path / f"{name}.out")
    left, right = tree(tmp_path / "plain.out"), tree(tmp_path / "packed.out")
    assert left.pop("meta/conversion.json") != right.pop("meta/conversion.json")
    assert left == right
