"""Converted episodes in; the files of a LeRobot v3.0 dataset, one data file for each episode, out."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.lerobot.dataset import (
    DATA_PATH,
    EPISODES_PATH,
    FILES_PER_CHUNK,
    IMAGE_DTYPES,
    IMAGES,
    VERSION,
    VIDEO_PATH,
    Feature,
    data_file,
)
from common.storage.files import write_json
from stage1_convert.dataset import stats
from stage1_convert.dataset.episode_file import PLACE, EpisodeOffset, numbers_in, renumber

PICTURES_PATH = "meta/pictures.parquet"
SOURCES_PATH = "meta/sync/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FLUSH_EPISODES = 1000  # so that memory does not grow with the number of episodes

Tally = tuple[npt.NDArray[np.int64], int]  # the sum of stats.tally over so many images


class EpisodeFiles(NamedTuple):
    """An episode on disk: its rows under any numbers, the sources of its frames, its videos, its images' values."""

    rows: Path
    sources: Path
    videos: dict[str, Path]
    images: dict[str, Tally]
    report: dict[str, Any]


class DatasetWriter:
    """EpisodeOffset the episodes it is given, in order, and writes them and the metadata below `root`."""

    def __init__(self, root: Path, features: dict[str, Feature], fps: int, robot_type: str) -> None:
        self._root, self._features, self._fps, self._robot_type = root, features, fps, robot_type
        self._tasks: dict[str, int] = {}
        self._keys = [key for key, feature in features.items() if feature.dtype not in IMAGE_DTYPES]
        self._columns = stats.Columns()
        self._images: dict[str, Tally] = {
            key: (np.zeros(stats.TALLY, np.int64), 0) for key, f in features.items() if f.dtype in IMAGE_DTYPES
        }
        self._episodes = Rows(root / EPISODES_PATH.format(chunk_index=0, file_index=0))
        self._counts = Rows(root / PICTURES_PATH)
        self.n_episodes = self.n_frames = 0

    def numbers(self, task: str) -> EpisodeOffset:
        """Return the place that the next episode will have."""
        return EpisodeOffset(self.n_episodes, self.n_frames, self._tasks.get(task, len(self._tasks)))

    def add(self, piece: EpisodeFiles, task: str) -> int:
        """Take an episode in and return its number."""
        numbers, count = self.numbers(task), int(piece.report["frames"])
        self._tasks.setdefault(task, numbers.task_index)
        number = numbers.episode_index
        chunk, file = data_file(number)
        self._place(piece, numbers)
        arrays = read_columns(piece.rows, self._keys, numbers)
        for key, array in arrays.items():
            self._columns.add(key, array)
        images = {IMAGES + camera: counted for camera, counted in piece.images.items()}
        for key, (tally, taken) in images.items():
            self._images[key] = (self._images[key][0] + tally, self._images[key][1] + taken)
            row = {"episode_index": number, "camera": key.removeprefix(IMAGES), "count": taken}
            self._counts.add({**row, "tally": tally.ravel()})
        place = {"chunk_index": chunk, "file_index": file}
        row = {"episode_index": number, "tasks": [task], "length": count}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": numbers.first_index, "dataset_to_index": numbers.first_index + count}
        for key, feature in self._features.items():
            if feature.dtype == "video":
                times = {"from_timestamp": 0.0, "to_timestamp": count / self._fps}
                row |= {f"videos/{key}/{name}": value for name, value in {**place, **times}.items()}
        for key in self._features:
            found = stats.image_stats(*images[key]) if key in images else stats.vector_stats(arrays[key])
            row |= {f"stats/{key}/{name}": value for name, value in found.items()}
        self._episodes.add({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self.n_episodes, self.n_frames = number + 1, self.n_frames + count
        return number

    def finish(self) -> None:
        """Write meta/: info.json, stats.json, tasks.parquet and episodes."""
        meta = self._root / "meta"
        write_json(meta / "info.json", self._info())
        found = {
            key: stats.image_stats(*self._images[key]) if key in self._images else self._columns.stats(key)
            for key in self._features
        }
        write_json(meta / "stats.json", found)
        pq.write_table(task_table(list(self._tasks)), meta / "tasks.parquet")
        self._episodes.close()
        self._counts.close()

    def _place(self, piece: EpisodeFiles, numbers: EpisodeOffset) -> None:
        """Give an episode's files their names: links where the numbers are right, which cost neither time nor disk."""
        chunk, file = data_file(numbers.episode_index)
        rows = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        rows.parent.mkdir(parents=True, exist_ok=True)
        if numbers_in(piece.rows) == numbers:
            link(piece.rows, rows)
        else:
            renumber(piece.rows, rows, numbers)
        link(piece.sources, self._root / SOURCES_PATH.format(chunk_index=chunk, file_index=file))
        for camera, video in piece.videos.items():
            name = VIDEO_PATH.format(video_key=IMAGES + camera, chunk_index=chunk, file_index=file)
            link(video, self._root / name)

    def _info(self) -> dict[str, Any]:
        return describe_info(
            self._features, self._fps, self._robot_type, (self.n_episodes, self.n_frames, len(self._tasks))
        )


class Rows:
    """Writes dicts, all with the same keys, as the rows of a parquet file, FLUSH_EPISODES to a row group."""

    def __init__(self, path: Path) -> None:
        self._path, self._waiting = path, list[dict[str, Any]]()
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Take the next row."""
        self._waiting.append(row)
        if len(self._waiting) == FLUSH_EPISODES:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        schema = pa.schema({key: _episode_type(key) for key in self._waiting[0]})
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, schema)
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=schema))
        self._waiting = []


def image_counts(path: Path) -> dict[tuple[int, str], Tally]:
    """Return what a dataset's meta/pictures.parquet tells of every episode and camera."""
    table = pq.read_table(path)
    tallies = table.column("tally").combine_chunks().flatten().to_numpy().reshape(-1, *stats.TALLY)
    episodes, cameras, counts = (table.column(name).to_pylist() for name in ("episode_index", "camera", "count"))
    return dict(zip(zip(episodes, cameras, strict=True), zip(tallies, counts, strict=True), strict=True))


def describe_info(
    features: Mapping[str, Feature], fps: int, robot_type: str | None, totals: tuple[int, int, int]
) -> dict[str, Any]:
    """Return meta/info.json; `totals` are the numbers of episodes, frames and tasks."""
    described = {
        key: {"dtype": f.dtype, "shape": list(f.shape), "names": list(f.names) if f.names else None}
        | ({"info": f.info} if f.info else {})
        for key, f in features.items()
    }
    videos = any(feature.dtype == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "fps": fps,
        "features": described,
        "total_episodes": totals[0],
        "total_frames": totals[1],
        "total_tasks": totals[2],
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "robot_type": robot_type,
        "splits": {"train": f"0:{totals[0]}"},
    }


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_columns(path: Path, keys: Iterable[str], numbers: EpisodeOffset) -> dict[str, npt.NDArray[Any]]:
    """Return columns of an episode's file, (rows,) or (rows, dimensions), as they are under these numbers."""
    table = pq.read_table(path, columns=[key for key in keys if key not in PLACE or numbers.task_index < 0])
    return {key: _column(table, key, numbers) for key in keys}


def _column(table: pa.Table, key: str, numbers: EpisodeOffset) -> npt.NDArray[Any]:
    if key == "index":
        return np.arange(numbers.first_index, numbers.first_index + table.num_rows)
    if key in PLACE and getattr(numbers, key) >= 0:
        return np.full(table.num_rows, getattr(numbers, key), np.int64)
    return _values(table.column(key))


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    is_vector = pa.types.is_fixed_size_list(array.type)
    values: npt.NDArray[Any] = (array.flatten() if is_vector else array).to_numpy()
    return values.reshape(len(array), -1) if is_vector else values


def _episode_type(key: str) -> pa.DataType:
    if key in ("tasks", "camera"):
        return pa.list_(pa.string()) if key == "tasks" else pa.string()
    if key == "tally":
        return pa.list_(pa.int64())
    if not key.startswith("stats/"):
        return pa.float64() if key.endswith("_timestamp") else pa.int64()
    if key.endswith("/count"):
        return pa.list_(pa.int64())
    one = pa.list_(pa.float64())
    return pa.list_(pa.list_(one)) if key.startswith("stats/" + IMAGES) else one


def task_table(tasks: Iterable[str]) -> pa.Table:
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
    tasks = list(tasks)
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})
