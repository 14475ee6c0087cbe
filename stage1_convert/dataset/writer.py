"""The writer of LeRobot v3.0 datasets: one data file for each episode, and the metadata."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, progress
from common.lerobot.metadata import (
    DATA_PATH,
    EPISODES_PATH,
    FILES_PER_CHUNK,
    IMAGE_DTYPES,
    IMAGES,
    VERSION,
    VIDEO_PATH,
    Feature,
    data_file,
    read_episodes,
)
from common.storage.files import sync, temporary_path, write_json
from common.storage.worker import Limits, map_isolated
from stage1_convert.dataset.episode_file import EpisodeOffset, read_columns, read_offset, renumber
from stage1_convert.dataset.record import SYNC_PATH
from stage1_convert.dataset.stats import NAMES, Stats, column_stats, pooled

RENUMBER_BYTES, RENUMBER_S = 2 << 30, 24 * 3600.0  # limits of a process; it holds one row group
GROUP_EPISODES = 1000  # rows of meta/episodes are written so many at a time


class EpisodeFiles(NamedTuple):
    """An episode on disk: its rows under any offset, the messages its frames show, its videos, and its images' statistics.

    `videos` and `image_stats` are by camera.
    """

    rows: Path
    sync: Path
    videos: dict[str, Path]
    image_stats: dict[str, Stats]


class _PlacedEpisode(NamedTuple):
    """An episode and its place in the dataset."""

    files: EpisodeFiles
    offset: EpisodeOffset
    length: int
    task: str


class DatasetWriter:
    """Writes the episodes it is given, in order, and the metadata below `root`.

    `add` only gives an episode its place. All of them are written at the end, by several processes where their rows have
    to be renumbered.
    """

    def __init__(self, root: Path, features: dict[str, Feature], fps: int, robot_type: str) -> None:
        self._root, self._features, self._fps, self._robot_type = root, features, fps, robot_type
        self._tasks: dict[str, int] = {}
        images = {key for key, feature in features.items() if feature.dtype in IMAGE_DTYPES}
        self._columns: dict[str, list[npt.NDArray[Any]]] = {key: [] for key in features if key not in images}
        self._image_stats: dict[str, list[Stats]] = {key: [] for key in features if key in images}
        self._placed: list[_PlacedEpisode] = []
        self.n_frames = 0

    @property
    def n_episodes(self) -> int:
        """Number of episodes so far."""
        return len(self._placed)

    def add(self, files: EpisodeFiles, length: int, task: str) -> int:
        """Append an episode of `length` frames and return its number."""
        offset = EpisodeOffset(self.n_episodes, self.n_frames, self._tasks.setdefault(task, len(self._tasks)))
        self._placed.append(_PlacedEpisode(files, offset, length, task))
        self.n_frames += length
        return offset.episode_index

    def finish(self, workers: int) -> None:
        """Write the episodes and meta/: info.json, stats.json, tasks.parquet and episodes."""
        self._write_rows(workers)
        self._write_episodes()
        meta, totals = self._root / "meta", (self.n_episodes, self.n_frames, len(self._tasks))
        write_json(meta / "info.json", describe_info(self._features, self._fps, self._robot_type, totals))
        stats = {key: pooled(parts) for key, parts in self._image_stats.items()}
        stats |= {key: column_stats(np.concatenate(parts)) for key, parts in self._columns.items()}
        write_json(meta / "stats.json", {key: stats[key] for key in self._features})
        pq.write_table(task_table(self._tasks), meta / "tasks.parquet")

    def _write_rows(self, workers: int) -> None:
        """Write the rows of all episodes under their numbers; a file that was converted once may be several episodes."""
        uses: dict[Path, list[tuple[EpisodeOffset, Path]]] = {}
        for files, offset, _, _ in self._placed:
            uses.setdefault(files.rows, []).append((offset, self._rows_path(offset)))
        limits = Limits(RENUMBER_BYTES, RENUMBER_S)
        processes = workers if min(workers, len(uses)) > 1 else 0
        with contextlib.closing(map_isolated(_place_rows, uses.items(), processes, lambda _: limits)) as results:
            for refusal, use in zip(progress(results, len(uses), "renumber", "file"), uses.values(), strict=True):
                if refusal is not None:
                    raise UserError(f"the rows of episode {use[0][0].episode_index} cannot be renumbered: {refusal}")

    def _write_episodes(self) -> None:
        """Write meta/episodes, GROUP_EPISODES rows to a row group, and link the files that they tell of."""
        path = self._root / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = map(self._write, self._placed)
        group = list(islice(rows, GROUP_EPISODES))
        schema = pa.schema({key: _episode_type(key) for key in group[0]})
        with pq.ParquetWriter(path, schema) as writer:
            while group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = list(islice(rows, GROUP_EPISODES))

    def _rows_path(self, offset: EpisodeOffset) -> Path:
        chunk, file = data_file(offset.episode_index)
        return self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)

    def _write(self, episode: _PlacedEpisode) -> dict[str, Any]:
        """Link the other files of an episode under their names in the dataset, and return its row of meta/episodes."""
        files, offset, length, task = episode
        chunk, file = data_file(offset.episode_index)
        place = {"chunk_index": chunk, "file_index": file}
        link(files.sync, self._root / SYNC_PATH.format(**place))
        for camera, video in files.videos.items():
            link(video, self._root / VIDEO_PATH.format(video_key=IMAGES + camera, **place))
        stats = {IMAGES + camera: stats for camera, stats in files.image_stats.items()}
        for key, found in stats.items():
            self._image_stats[key].append(found)
        for key, values in read_columns(self._rows_path(offset), list(self._columns)).items():
            self._columns[key].append(values)
            stats[key] = column_stats(values)
        row = {"episode_index": offset.episode_index, "tasks": [task], "length": length}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": offset.first_index, "dataset_to_index": offset.first_index + length}
        for key, feature in self._features.items():
            if feature.dtype == "video":
                times = {"from_timestamp": 0.0, "to_timestamp": length / self._fps}
                row |= {f"videos/{key}/{name}": value for name, value in {**place, **times}.items()}
        for key in self._features:
            row |= {f"stats/{key}/{name}": value for name, value in stats[key].items()}
        return {**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _place_rows(use: tuple[Path, Sequence[tuple[EpisodeOffset, Path]]]) -> None:
    """Link a file of rows under the path of every episode that it is, renumbered if need be.

    Renumbered rows replace those they were made from, so that they take room on the disk once.
    """
    pa.set_cpu_count(1)  # there are several of these processes
    rows, places = use
    for offset, target in places:
        if read_offset(rows) != offset:
            renumbered = temporary_path(rows)
            try:
                renumber(rows, renumbered, offset)
                sync(renumbered)
                renumbered.replace(rows)
            finally:
                renumbered.unlink(missing_ok=True)
        link(rows, target)


def read_image_stats(dataset: Path, cameras: Iterable[str]) -> list[dict[str, Stats]]:
    """Return the statistics of every episode's images, by camera, from a dataset's meta/episodes."""
    rows = read_episodes(dataset, lambda name: name.startswith(f"stats/{IMAGES}"))
    return [
        {camera: {name: row[f"stats/{IMAGES}{camera}/{name}"] for name in NAMES} for camera in cameras} for row in rows
    ]


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


def _episode_type(key: str) -> pa.DataType:
    if key == "tasks":
        return pa.list_(pa.string())
    if not key.startswith("stats/"):
        return pa.float64() if key.endswith("_timestamp") else pa.int64()
    if key.endswith("/count"):
        return pa.list_(pa.int64())
    numbers = pa.list_(pa.float64())
    return pa.list_(pa.list_(numbers)) if key.startswith("stats/" + IMAGES) else numbers


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
