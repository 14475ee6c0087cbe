"""Datasets of other tools under LeRobot's names: one mapping, applied where the dataset is opened."""

from pathlib import Path

import numpy as np
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from common.lerobot.keys import parse_renames
from common.lerobot.metadata import ACTION, STATE
from stage3_eval.recording import read_rows
from tests.common.lerobot.foreign import DATA, change_cells, change_info, rename_columns
from tests.conftest import GOLDEN
from tests.stage2_train.tiny import write_dataset

IMAGE = "observation.images.color"
OPENPI = {"state": STATE, "actions": ACTION, "image": IMAGE}


@pytest.fixture
def openpi(image_dataset: Path) -> Path:
    """The golden dataset with openpi's keys."""
    rename_columns(image_dataset, {name: key for key, name in OPENPI.items()})
    return image_dataset


def test_a_renamed_dataset_is_the_dataset_with_lerobots_names(openpi: Path, tmp_path: Path) -> None:
    dataset, expected = Dataset.open(openpi, OPENPI), Dataset.open(GOLDEN / "dataset_image")
    assert dataset.features == expected.features
    assert dataset.cameras == expected.cameras
    assert dataset.stats.keys() == expected.stats.keys()
    np.testing.assert_array_equal(dataset.stats[ACTION]["mean"], expected.stats[ACTION]["mean"])
    found, wanted = (each.columns([STATE, ACTION, "timestamp"]) for each in (dataset, expected))
    rows, wanted_rows = (read_rows(each, each.episodes[1], [STATE, ACTION]) for each in (dataset, expected))
    for key in (STATE, ACTION):
        np.testing.assert_array_equal(found[key], wanted[key])
        np.testing.assert_array_equal(rows[key], wanted_rows[key])
    image, wanted_image = (np.empty((1, 64, 96, 3), np.uint8) for _ in range(2))
    for mode in ("mmap", "none"):
        open_frames(dataset, tmp_path, mode)["color"].take(np.array([30]), image)
        open_frames(expected, tmp_path, mode)["color"].take(np.array([30]), wanted_image)
        np.testing.assert_array_equal(image, wanted_image)


def test_the_videos_of_a_renamed_camera_are_read() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_video", {IMAGE: "observation.images.front"})
    expected = Dataset.open(GOLDEN / "dataset_video")
    np.testing.assert_array_equal(
        dataset.video_frame(dataset.episodes[1], "front", 3), expected.video_frame(expected.episodes[1], "color", 3)
    )


def test_a_faulty_value_is_named_by_its_column_in_the_file(openpi: Path, tmp_path: Path) -> None:
    change_cells(openpi, "actions", lambda cells: cells.__setitem__(27, None))
    dataset = Dataset.open(openpi, OPENPI)
    with pytest.raises(UserError, match=f"{DATA}: row 27: actions is null"):
        dataset.columns([ACTION])
    with pytest.raises(UserError, match=f"{DATA}: row 27: actions is null"):
        read_rows(dataset, dataset.episodes[1], [STATE, ACTION])


def test_a_dataset_without_lerobots_names_is_refused_with_names_to_paste(openpi: Path) -> None:
    with pytest.raises(UserError) as refusal:
        Dataset.open(openpi)
    words = "state=observation.state actions=action image=observation.images.image"
    override = "--override 'data.rename={state: observation.state, actions: action, image: observation.images.image}'"
    assert "has no observation.state, no action, images named image; its features are" in str(refusal.value)
    assert str(refusal.value).endswith(f"train with {override}, evaluate and check with --rename {words}")
    Dataset.open(openpi, parse_renames(words.split()))
    for given in ({"state": STATE}, {"state": "observation.other"}):  # the proposal is complete
        with pytest.raises(UserError, match=r"data\.rename=\{state: observation\.state, actions: action, image: "):
            Dataset.open(openpi, given)


def test_of_several_states_the_plainest_is_proposed(openpi: Path) -> None:
    def change(info: dict) -> None:  # type: ignore[type-arg]
        state = info["features"].pop("state")
        info["features"] |= {"ee_state_world": state, "joint_state": state, "qpos": state}
        del info["features"]["actions"]

    change_info(openpi, change)
    with pytest.raises(UserError, match=r"\{joint_state: observation\.state, KEY: action, image: "):
        Dataset.open(openpi)


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ({"stat": STATE}, r"rename stat=observation\.state: the dataset has no stat; did you mean state\?"),
        ({"zzz": STATE}, r"rename zzz=observation\.state: the dataset has no zzz; it has .*state"),
        ({"state": "observation_state"}, r"expected observation\.state, .* did you mean observation\.state\?"),
        ({"image": "observation.images.a/../b"}, r"expected observation\.state, action, observation\.images\.NAME"),
        ({"state": STATE, "actions": STATE}, r"would both be observation\.state; give each a name of its own"),
        ({"qpos": "timestamp"}, "the dataset has no qpos, but timestamp itself: leave this rename out"),
    ],
)
def test_a_mapping_that_fits_no_names_is_refused(rename: dict[str, str], words: str, openpi: Path) -> None:
    with pytest.raises(UserError, match=words):
        Dataset.open(openpi, rename)


def test_a_mapping_of_a_dataset_that_has_lerobots_names_names_the_way_out() -> None:
    with pytest.raises(
        UserError,
        match=r"has no \w+, but \S+ itself: leave this rename out \(data.rename={} or --rename without values",
    ):
        Dataset.open(GOLDEN / "dataset_image", OPENPI)


def test_two_cameras_that_change_names_have_maps_of_their_own(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "two", cameras={"left": (32, 40), "right": (32, 40)})
    left, right = "observation.images.left", "observation.images.right"
    plain = open_frames(Dataset.open(root, use_cameras=["left"]), tmp_path / "cache")
    swapped = open_frames(Dataset.open(root, {left: right, right: left}, ["left"]), tmp_path / "cache")
    images = np.empty((2, 1, 32, 40, 3), np.uint8)
    for out, frames in zip(images, (plain, swapped), strict=True):
        frames["left"].take(np.array([3]), out)
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize("words", [["state"], ["state="], ["=action"], ["state=action", "state=observation.state"]])
def test_a_word_that_renames_nothing_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"--rename .*: expected OLD=NEW, each OLD once, such as "):
        parse_renames(words)


def test_cameras_are_left_out_by_short_or_full_names(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "two", cameras={"front": (32, 40), "wrist": (32, 40)})
    for name in ("wrist", "observation.images.wrist"):
        assert list(Dataset.open(root, use_cameras=[name]).cameras) == ["wrist"]
    assert not Dataset.open(root, use_cameras=[]).cameras
    with pytest.raises(UserError, match=r"use_cameras: the dataset has no camera wirst; did you mean wrist\?"):
        Dataset.open(root, use_cameras=["wirst"])


def test_images_outside_of_observation_may_be_left_out(openpi: Path) -> None:
    names = {"state": STATE, "actions": ACTION}
    with pytest.raises(UserError, match="images named image"):
        Dataset.open(openpi, names)
    assert not Dataset.open(openpi, names, []).cameras
