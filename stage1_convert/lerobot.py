"""Episodes' rows in; the files of a LeRobot v3.0 dataset, one data file for each episode, out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.dataset import (
    ACTION,
    DATA_PATH,
    EPISODES_PATH,
    FILES_PER_CHUNK,
    IMAGES,
    INDEX_COLUMNS,
    STATE,
    VERSION,
    Feature,
    arrow_type,
    data_file,
)
from common.files import write_json
from stage1_convert import stats

MAX_GROUP_BYTES = 1 << 30  # readers cannot rebuild a struct column of 2 GiB from one row group


def describe_features(
    joints: Sequence[str], sizes: Mapping[str, tuple[int, int]], action_info: dict[str, Any]
) -> dict[str, Feature]:
    """Return the columns of a dataset, in order; `sizes` maps a camera to its pictures' (height, width)."""
    vector = Feature("float32", (len(joints),), tuple(joints), {})
    axes = ("height", "width", "channels")
    pictures = {IMAGES + camera: Feature("image", (*size, 3), axes, {}) for camera, size in sizes.items()}
    scalars = {key: Feature(dtype, (1,), None, {}) for key, dtype in INDEX_COLUMNS.items()}
    return {STATE: vector, ACTION: vector._replace(info=action_info), **pictures, **scalars}


class DatasetWriter:
    """Numbers the episodes it is given, in order, and writes them and the metadata below `root`."""

    def __init__(self, root: Path, features: dict[str, Feature], fps: int, robot_type: str, task: str) -> None:
        self._root, self._features, self._fps, self._robot_type, self._task = root, features, fps, robot_type, task
        self._schema = _schema(features)
        self._episodes: list[dict[str, Any]] = []
        self._columns: dict[str, list[npt.NDArray[Any]]] = {k: [] for k, f in features.items() if f.dtype != "image"}
        self._histograms = {k: np.zeros((3, 256), np.int64) for k, f in features.items() if f.dtype == "image"}
        self.n_frames = 0

    @property
    def n_episodes(self) -> int:
        """Number of episodes so far."""
        return len(self._episodes)

    def add(self, rows: pa.Table, histograms: Mapping[str, npt.NDArray[np.int64]]) -> int:
        """Write an episode and return its number.

        `rows` holds every column but episode_index, index and task_index; `histograms` (3, 256) by feature count the
        values of all its pictures.
        """
        number, count = self.n_episodes, rows.num_rows
        first, last = self.n_frames, self.n_frames + count
        numbers = {
            "episode_index": np.full(count, number, np.int64),
            "index": np.arange(first, last, dtype=np.int64),
            "task_index": np.zeros(count, np.int64),
        }
        for key, column in numbers.items():
            rows = rows.append_column(key, pa.array(column))
        chunk, file = data_file(number)
        path = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        groups = 1 + rows.nbytes // MAX_GROUP_BYTES
        pq.write_table(rows.select(self._schema.names).cast(self._schema), path, row_group_size=-(-count // groups))

        arrays = {key: _values(rows.column(key)) for key in self._columns}
        for key, array in arrays.items():
            self._columns[key].append(array)
        for key in self._histograms:
            self._histograms[key] += histograms[key]
        row = {"episode_index": number, "tasks": [self._task], "length": count, "data/chunk_index": chunk}
        row |= {"data/file_index": file, "dataset_from_index": first, "dataset_to_index": last}
        for key, values in self._statistics(arrays, histograms, count).items():
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        self._episodes.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self.n_frames = last
        return number

    def finish(self) -> None:
        """Write meta/: info.json, stats.json, tasks.parquet and episodes."""
        meta = self._root / "meta"
        meta.mkdir(exist_ok=True)
        write_json(meta / "info.json", self._info())
        columns = {key: np.concatenate(parts) for key, parts in self._columns.items()}
        write_json(meta / "stats.json", self._statistics(columns, self._histograms, self.n_frames))
        pq.write_table(_tasks([self._task]), meta / "tasks.parquet")
        path = self._root / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        types = {key: _episode_type(key) for key in self._episodes[0]}
        pq.write_table(pa.Table.from_pylist(self._episodes, schema=pa.schema(types)), path)

    def _statistics(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        histograms: Mapping[str, npt.NDArray[np.int64]],
        frames: int,
    ) -> dict[str, dict[str, list[Any]]]:
        return {
            key: stats.picture_stats(histograms[key], frames) if key in histograms else stats.vector_stats(columns[key])
            for key in self._features
        }

    def _info(self) -> dict[str, Any]:
        features = {
            key: {"dtype": f.dtype, "shape": list(f.shape), "names": list(f.names) if f.names else None}
            | ({"info": f.info} if f.info else {})
            for key, f in self._features.items()
        }
        return {
            "codebase_version": VERSION,
            "fps": self._fps,
            "features": features,
            "total_episodes": self.n_episodes,
            "total_frames": self.n_frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": DATA_PATH,
            "video_path": None,
            "robot_type": self._robot_type,
            "splits": {"train": f"0:{self.n_episodes}"},
        }


def _schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Return the data files' schema with the note by which `datasets` (version 4 on) knows the pictures."""
    noted: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype == "image":
            noted[key] = {"_type": "Image"}
        elif feature.shape == (1,):
            noted[key] = value
        else:
            noted[key] = {"feature": value, "length": feature.shape[0], "_type": "List"}
    note = json.dumps({"info": {"features": noted}})
    return pa.schema({key: arrow_type(f) for key, f in features.items()}, metadata={"huggingface": note})


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    is_vector = pa.types.is_fixed_size_list(array.type)
    values: npt.NDArray[Any] = (array.flatten() if is_vector else array).to_numpy()
    return values.reshape(len(array), -1) if is_vector else values


def _episode_type(key: str) -> pa.DataType:
    if key == "tasks":
        return pa.list_(pa.string())
    if not key.startswith("stats/"):
        return pa.int64()
    if key.endswith("/count"):
        return pa.list_(pa.int64())
    one = pa.list_(pa.float64())
    return pa.list_(pa.list_(one)) if key.startswith("stats/" + IMAGES) else one


def _tasks(tasks: Sequence[str]) -> pa.Table:
    """Return tasks.parquet, whose text column must be marked as the index of a pandas frame: LeRobot looks tasks up
    by their position in it.
    """
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    note = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": "task", "field_name": "task", **text},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})
