"""The layout on disk against a dataset that LeRobot 0.6.1 wrote itself."""

import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow.parquet as pq
import pytest

from common.storage.files import read_json
from tests.conftest import GOLDEN
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import RAW_TOPIC, cell

LEROBOT = GOLDEN / "dataset_image"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags converted, with joints and images like those of the golden dataset."""
    folder = tmp_path_factory.mktemp("lerobot")
    for seed in range(2):
        cell(seed=seed, topic=RAW_TOPIC, size=(64, 96)).write(folder / "src" / f"bag{seed}")
    run(folder / "src", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("file", [DATA, EPISODES])
def test_files_have_the_same_columns_and_types(dataset: Path, file: str) -> None:
    assert pq.read_schema(dataset / file).equals(pq.read_schema(LEROBOT / file), check_metadata=False)


def test_the_data_file_tells_the_datasets_library_the_same_features(dataset: Path) -> None:
    ours, theirs = (
        json.loads(pq.read_schema(root / DATA).metadata[b"huggingface"])["info"] for root in (dataset, LEROBOT)
    )
    assert ours == theirs
    assert list(ours["features"]) == list(theirs["features"])


def test_every_episode_is_one_row_group_of_a_file_of_its_own(dataset: Path) -> None:
    files = [pq.ParquetFile(path).metadata for path in sorted(dataset.glob("data/*/*.parquet"))]
    assert [(file.num_row_groups, file.num_rows) for file in files] == [(1, 44), (1, 44)]
    assert {files[0].row_group(0).column(0).compression} == {"SNAPPY"}


def test_info_has_the_same_keys_and_only_other_values(dataset: Path) -> None:
    ours, theirs = (read_json(root / "meta" / "info.json") for root in (dataset, LEROBOT))
    assert list(ours) == list(theirs)
    assert list(ours["features"]) == list(theirs["features"])
    for key, feature in theirs["features"].items():
        found = {name: value for name, value in ours["features"][key].items() if name not in ("names", "info")}
        assert found == {name: value for name, value in feature.items() if name != "names"}
    same = [key for key in theirs if ours[key] == theirs[key]]
    assert {"codebase_version", "chunks_size", "data_path", "video_path", "robot_type", "splits"} <= set(same)
    assert (ours["total_episodes"], ours["total_frames"], ours["total_tasks"]) == (2, 88, 1)


def test_stats_have_the_same_features_and_shapes(dataset: Path) -> None:
    def shape(value: object) -> object:
        return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

    ours, theirs = (read_json(root / "meta" / "stats.json") for root in (dataset, LEROBOT))
    assert ours.keys() == theirs.keys()
    for key, stats in theirs.items():
        assert {name: shape(value) for name, value in ours[key].items()} == {k: shape(v) for k, v in stats.items()}


def test_the_task_text_is_the_index_of_the_tasks_table(dataset: Path) -> None:
    ours, theirs = (pd.read_parquet(root / "meta" / "tasks.parquet") for root in (dataset, LEROBOT))
    assert ours.index.name == theirs.index.name == "task"
    assert ours.iloc[0].name == "Move the arm as demonstrated."
    assert dict(ours.dtypes) == dict(theirs.dtypes)


def test_the_datasets_library_decodes_the_images(dataset: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(dataset.glob("data/*/*.parquet"))]
    table = datasets.Dataset.from_parquet(paths, cache_dir=str(tmp_path))
    assert isinstance(table.features["observation.images.color"], datasets.Image)
    assert table[50]["observation.images.color"].size == (96, 64)
    assert table[50]["observation.images.color"].mode == "RGB"
    assert table["index"][:] == list(range(88))
