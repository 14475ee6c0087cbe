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
from tests.conftest import GOLDEN

ITEMS = (0, 5, 12, 19, 20, 31, 41)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_columns_and_images_equal_what_lerobot_reads(kind: str, tmp_path: Path) -> None:
    dataset = Dataset.open(GOLDEN / f"dataset_{kind}")
    expected = load_file(GOLDEN / f"dataset_{kind}.expected.safetensors")
    columns = dataset.columns([STATE, "timestamp", "frame_index", "episode_index", "index", "task_index"], tmp_path)
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


def test_the_frame_cache_is_built_once_and_again_when_the_dataset_changes(image_dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    open_frames(Dataset.open(image_dataset), cache)
    (first,) = [p for p in (cache / "frames").iterdir() if p.is_dir()]
    built = (first / "color.u8").stat().st_mtime_ns
    open_frames(Dataset.open(image_dataset), cache)
    assert (first / "color.u8").stat().st_mtime_ns == built
    info = json.loads((image_dataset / "meta" / "info.json").read_text())
    (image_dataset / "meta" / "info.json").write_text(json.dumps(info | {"robot_type": "another"}))
    open_frames(Dataset.open(image_dataset), cache)
    assert len([p for p in (cache / "frames").iterdir() if p.is_dir()]) == 2


def test_a_damaged_image_is_named_by_camera_episode_and_frame(image_dataset: Path, tmp_path: Path) -> None:
    path = image_dataset / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    images = table.column("observation.images.color").to_pylist()
    images[23]["bytes"] = images[23]["bytes"][:20]
    place = table.schema.get_field_index("observation.images.color")
    column = pq.read_table(path).schema.field(place)
    import pyarrow as pa

    pq.write_table(table.set_column(place, column, pa.array(images, column.type)), path)
    with pytest.raises(UserError, match="camera color, episode 1, frame 3: the image"):
        open_frames(Dataset.open(image_dataset), tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache" / "frames").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebase_version": "v2.1"}, "codebase_version is 'v2.1'"),
        ({"total_frames": 43}, "declares 43 frames, the episodes hold 42"),
        ({"features": {}}, "has no observation.state"),
        ({"features": 5}, r"info\.json is damaged: features=5: expected a map"),
        ({"fps": "fast"}, r"info\.json is damaged: fps=fast: expected a whole number"),
    ],
)
def test_damaged_metadata_is_refused(image_dataset: Path, change: dict[str, object], words: str) -> None:
    path = image_dataset / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        Dataset.open(image_dataset)


def test_rows_that_are_not_in_order_are_refused(image_dataset: Path, tmp_path: Path) -> None:
    path = image_dataset / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, *range(2, 42)]), path)
    with pytest.raises(UserError, match="row 0 has index 1, expected 0"):
        Dataset.open(image_dataset).columns([ACTION], tmp_path / "cache")


def test_a_truncated_data_file_is_refused(image_dataset: Path, tmp_path: Path) -> None:
    path = image_dataset / "data" / "chunk-000" / "file-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="data cannot be read"):
        Dataset.open(image_dataset).columns([ACTION], tmp_path / "cache")


@pytest.mark.parametrize("note", [{"feature": "Value", "_type": "List"}, {"_type": 5}, {"dtype": "float32"}, []])
def test_damaged_metadata_of_the_features_is_reported(image_dataset: Path, tmp_path: Path, note: object) -> None:
    (path,) = (image_dataset / "data").glob("*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    damaged = {"huggingface": json.dumps({"info": {"features": {"action": note}}})}
    pq.write_table(table.replace_schema_metadata(damaged), path)
    with pytest.raises(UserError, match=r"data (cannot be read|has damaged metadata of its features): "):
        Dataset.open(image_dataset).columns([STATE], tmp_path)


@pytest.mark.parametrize("harm", ["cut", "zeros", "empty", "gone", "no record"])
def test_a_damaged_copy_of_the_columns_is_made_again(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    wanted = dataset.columns([ACTION], tmp_path)[ACTION].copy()
    (arrow,) = tmp_path.rglob("*.arrow")
    data = arrow.read_bytes()
    if harm == "gone":
        arrow.unlink()
    elif harm == "no record":
        arrow.with_name("dataset_info.json").write_text("{")
    else:
        half = len(data) // 2
        arrow.write_bytes({"cut": data[:half], "zeros": data[:half] + bytes(len(data) - half), "empty": b""}[harm])
    np.testing.assert_array_equal(dataset.columns([ACTION], tmp_path)[ACTION], wanted)
    assert "is copied again" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(dataset.columns([ACTION], tmp_path)[ACTION], wanted)
    assert not caplog.text


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta/info\.json is missing"):
        Dataset.open(tmp_path)


def test_files_never_exceed_a_thousand_in_a_chunk() -> None:
    assert [data_file(i) for i in (0, 999, 1000, 2500)] == [(0, 0), (0, 999), (1, 0), (2, 500)]


def test_a_frame_beyond_the_end_of_a_video_is_refused() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_video")
    with pytest.raises(UserError, match=r"file-000\.mp4 ends before 100\.000 s; the video is incomplete"):
        dataset.video_frame(dataset.episodes[0], "color", 3000)
