"""Datasets that LeRobot wrote are read as LeRobot reads them, value by value."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from common.lerobot.metadata import ACTION, STATE, data_file
from tests.common.lerobot.foreign import DATA, change_info
from tests.conftest import GOLDEN

ITEMS = (0, 5, 12, 19, 20, 31, 41)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_columns_and_images_equal_what_lerobot_reads(kind: str, tmp_path: Path) -> None:
    dataset = Dataset.open(GOLDEN / f"dataset_{kind}")
    expected = load_file(GOLDEN / f"dataset_{kind}.expected.safetensors")
    columns = dataset.columns([STATE, "timestamp", "frame_index", "episode_index", "index", "task_index"])
    frames = open_frames(dataset, tmp_path)["color"]
    image = np.empty((1, *frames.shape), np.uint8)
    for i in ITEMS:
        for key, values in columns.items():
            np.testing.assert_array_equal(values[i], expected[f"{i}/{key}"])
        frames.take(np.array([i]), image)
        np.testing.assert_array_equal(image[0].transpose(2, 0, 1), expected[f"{i}/image_u8_chw"])


def test_the_metadata_of_a_dataset_is_read() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    assert (dataset.fps, dataset.n_frames, [e.length for e in dataset.episodes]) == (30, 42, [20, 22])
    assert dataset.cameras == {"color": (64, 96, 3)}
    assert dataset.joint_names[0] == "shoulder_pan"
    assert (dataset.action_meaning, dataset.action_wrapped) == (None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"codebase_version": "v2.1"},
            r"codebase_version is 'v2\.1'; .*python -m lerobot\.scripts\.convert_dataset_v21_to_v30",
        ),
        ({"total_frames": 43}, "declares 43 frames, the episodes hold 42"),
        ({"features": {}}, "has no observation.state"),
        ({"features": 5}, r"info\.json is damaged: features=5: expected a map"),
        ({"fps": "fast"}, r"info\.json is damaged: fps=fast: expected a whole number"),
        ({"fps": 29.97}, r"fps=29\.97: expected a whole number of frames per second"),
    ],
)
def test_what_cannot_be_read_names_the_reason_or_the_way_out(
    image_dataset: Path, change: dict[str, object], words: str
) -> None:
    change_info(image_dataset, lambda info: info.update(change))
    with pytest.raises(UserError, match=words):
        Dataset.open(image_dataset)


def test_rows_that_are_not_in_order_are_refused(image_dataset: Path) -> None:
    table = pq.read_table(image_dataset / DATA)
    pq.write_table(table.take([1, 0, *range(2, 42)]), image_dataset / DATA)
    with pytest.raises(UserError, match="row 0 has index 1, expected 0"):
        Dataset.open(image_dataset).columns([ACTION])


def test_a_data_file_that_is_truncated_incomplete_or_missing_is_named(image_dataset: Path) -> None:
    path = image_dataset / DATA
    table = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"data cannot be read: .*{DATA}"):
        Dataset.open(image_dataset).columns([ACTION])
    pq.write_table(table.slice(0, 20), path)
    pq.write_table(table.slice(20).drop_columns([ACTION]), path.with_name("file-001.parquet"))
    with pytest.raises(UserError, match=r"file-001\.parquet has no column action; repair it"):
        Dataset.open(image_dataset).columns([ACTION])
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="data holds no parquet files"):
        Dataset.open(image_dataset).columns([ACTION])


def test_what_a_file_says_of_its_features_does_not_matter(image_dataset: Path) -> None:
    table = pq.read_table(image_dataset / DATA)
    note = {"huggingface": json.dumps({"info": {"features": {"action": {"_type": 5}}}})}
    pq.write_table(table.replace_schema_metadata(note), image_dataset / DATA)
    expected = Dataset.open(GOLDEN / "dataset_image").columns([ACTION])[ACTION]
    np.testing.assert_array_equal(Dataset.open(image_dataset).columns([ACTION])[ACTION], expected)


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta/info\.json is missing"):
        Dataset.open(tmp_path)


def test_files_never_exceed_a_thousand_in_a_chunk() -> None:
    assert [data_file(i) for i in (0, 999, 1000, 2500)] == [(0, 0), (0, 999), (1, 0), (2, 500)]


def test_a_frame_beyond_the_end_of_a_video_is_refused() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_video")
    with pytest.raises(UserError, match=r"file-000\.mp4 ends before 100\.000 s; the video is incomplete"):
        dataset.video_frame(dataset.episodes[0], "color", 3000)
