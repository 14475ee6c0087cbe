"""Whole conversions, held against an independent reader of the bags and an independent reader of the dataset."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.lerobot.dataset import Dataset
from stage1_convert.check import check
from tests.stage1_convert import reference
from tests.stage1_convert.conversion import (
    actions_of,
    convert_one,
    jpegs,
    report,
    rows,
    run,
    sources_of,
    states_of,
    tree,
)
from tests.stage1_convert.recording import (
    COMPRESSED,
    HEIGHT,
    IMAGE,
    JOINT_STATE,
    JOINT_TOPIC,
    JOINTS,
    JPEG_TOPIC,
    MS,
    RAW_TOPIC,
    WIDTH,
    RecordedMessage,
    Storage,
    cell,
    compressed_image,
    decode,
    draw,
    joint_state,
    jpeg,
    number_in,
    with_image_messages,
)

COLOR = "observation.images.color"


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
    traced_to = sources_of(out)
    images = reference.compressed_samples(tmp_path / "src" / "bag", JPEG_TOPIC)
    joints = reference.joint_samples(tmp_path / "src" / "bag", JOINT_TOPIC, JOINTS)
    frames = reference.show({"joints": joints, "color": images})
    assert list(traced_to["tick_ns"]) == [tick_ns for tick_ns, _ in frames]
    traced = [images[number] for number in traced_to["color.message"]]
    assert [sample.value for sample in traced] == jpegs(out)
    assert [sample.stamp_ns for sample in traced] == list(traced_to["color.stamp_ns"])
    assert [joints[number].value for number in traced_to["joints.message"]] == [
        shown["joints"].value for _, shown in frames
    ]


def png(number: int, stamp_ns: int) -> Any:
    data = cv2.imencode(".png", cv2.cvtColor(draw(number), cv2.COLOR_RGB2BGR))[1].tobytes()
    return compressed_image(stamp_ns, data, "rgb8; png compressed")


def gray_jpeg(number: int, stamp_ns: int) -> Any:
    data = cv2.imencode(".jpg", cv2.cvtColor(draw(number), cv2.COLOR_RGB2GRAY))[1].tobytes()
    return compressed_image(stamp_ns, data, "mono8; jpeg")


@pytest.mark.parametrize("make", [png, gray_jpeg, None])
def test_what_is_no_color_jpeg_becomes_one_of_the_same_image(
    tmp_path: Path, make: Callable[[int, int], Any] | None
) -> None:
    recording = with_image_messages(cell(), make) if make else cell(topic=RAW_TOPIC)
    for data in jpegs(convert_one(tmp_path, recording)):
        assert data.startswith(b"\xff\xd8")
        stored = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        assert stored.shape == (HEIGHT, WIDTH, 3)
        recorded = draw(number_in(stored))
        if make is gray_jpeg:
            recorded = np.repeat(cv2.cvtColor(recorded, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        assert np.abs(stored[..., ::-1].astype(int) - recorded).mean() < 4


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
    found = dataset.stats[COLOR]
    assert found["count"].tolist() == [dataset.n_frames]
    assert found["mean"].shape == (3, 1, 1)
    assert_near_pixels(found, np.stack([decode(data) for data in jpegs(tmp_path / "out")]))
    actions = actions_of(tmp_path / "out").astype(np.float64)
    np.testing.assert_allclose(dataset.stats["action"]["std"], actions.std(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.stats["action"]["q10"], np.quantile(actions, 0.1, axis=0), rtol=1e-12)


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


def test_a_gripper_with_messages_of_its_own_on_the_topic_changes_nothing(tmp_path: Path) -> None:
    mixed = cell()
    for said in mixed.joints:
        stamp_ns = said.receive_ns + MS // 2
        mixed.others.append(
            RecordedMessage(stamp_ns, JOINT_TOPIC, JOINT_STATE, joint_state(stamp_ns, ["finger_joint"], [0.7]))
        )
    outs = [convert_one(tmp_path / "mixed", mixed), convert_one(tmp_path / "plain", cell())]
    assert jpegs(outs[0]) == jpegs(outs[1])
    np.testing.assert_array_equal(*(states_of(out) for out in outs))


def test_next_position_actions_are_the_following_state_and_say_so(tmp_path: Path) -> None:
    out = convert_one(tmp_path, cell(), "conventions.action=next_position")
    states, actions = states_of(out), actions_of(out)
    np.testing.assert_array_equal(actions, np.concatenate([states[1:], states[-1:]]))
    dataset = Dataset.open(out)
    assert (dataset.action_meaning, dataset.action_wrapped) == ("next_position", False)


def test_joint_signs_are_applied_when_asked_for(tmp_path: Path) -> None:
    plain = states_of(convert_one(tmp_path / "plain", cell()))
    signed = states_of(convert_one(tmp_path / "signed", cell(), "conventions.apply_joint_sign=true"))
    np.testing.assert_array_equal(signed, plain * np.array([1, -1, -1, 1, 1, 1], np.float32))


def test_the_compressed_topic_is_preferred_and_recorded(tmp_path: Path) -> None:
    recording = cell()
    recording.others = [said._replace(topic=RAW_TOPIC) for said in cell(topic=RAW_TOPIC).images]
    assert recording.others[0].type == IMAGE != COMPRESSED
    assert list(report(convert_one(tmp_path, recording))["bags"][0]["messages"]) == [JOINT_TOPIC, JPEG_TOPIC]
