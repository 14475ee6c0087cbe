"""Check meta/tasks.parquet and meta/episodes, and return the tasks and the episodes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from common.lerobot.metadata import DATA_PATH, EPISODES_PATH, episode_paths
from stage1_convert.check.findings import Findings
from stage1_convert.check.info import Declared

BOUNDS = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
VIDEO_COLUMNS = {
    "chunk_index": pa.int64(),
    "file_index": pa.int64(),
    "from_timestamp": pa.float64(),
    "to_timestamp": pa.float64(),
}
UNNAMED_INDEX = "__index_level_0__"  # the name of the index of tasks in files of LeRobot 0.4


class Episodes(NamedTuple):
    """The rows of meta/episodes as columns, the statistics apart from the others, and the file and row of each episode."""

    columns: dict[str, list[Any]]
    stats: dict[str, list[Any]]
    places: list[tuple[Path, int]]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First row of every episode in the whole dataset, and the row after its last."""
        return list(zip(self.columns["dataset_from_index"], self.columns["dataset_to_index"], strict=True))


def check_tasks(root: Path, declared: Declared, findings: Findings) -> list[str] | None:
    """Check tasks.parquet and return the texts in the order of LeRobot's task index."""
    path = root / "meta" / "tasks.parquet"
    table = findings.read(path)
    if table is None:
        return None
    index = _pandas_index(table)
    if index is None or index not in table.column_names or "task_index" not in table.column_names:
        found = f"columns {table.column_names}, pandas index {index!r}"
        findings.add(
            path, f"found {found}, expected task_index and the index `task`: LeRobot shows row numbers as tasks"
        )
        return None
    findings.expect(path, "type of task_index", table.schema.field("task_index").type, pa.int64())
    tasks: list[str] = table.column(index).to_pylist()
    numbers = table.column("task_index").to_pylist()
    if not all(isinstance(task, str) for task in tasks):
        findings.add(path, f"type of {index}: found {table.schema.field(index).type}, expected string")
        return None
    findings.expect(path, "task_index", numbers, list(range(len(numbers))))
    if len(set(tasks)) != len(tasks):
        findings.add(path, f"the tasks {tasks} are not all different")
    if declared.tasks is not None:
        findings.expect(path, "number of tasks (total_tasks in info.json)", len(tasks), declared.tasks)
    return tasks


def _pandas_index(table: pa.Table) -> str | None:
    try:
        columns = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        return None
    return columns[0] if len(columns) == 1 and columns[0] in ("task", UNNAMED_INDEX) else None


def check_episodes(root: Path, declared: Declared, tasks: list[str] | None, findings: Findings) -> Episodes | None:
    """Check the files of meta/episodes; None when they do not locate the episodes."""
    folder = root / "meta" / "episodes"
    paths = episode_paths(root)
    if not paths:
        findings.add(folder, "holds no episodes: file-000.parquet in chunk-000 is missing")
        return None
    episodes = Episodes({}, {}, [])
    for path in paths:
        table = findings.read(path)
        if table is None or not _check_columns(path, table, declared, findings):
            return None
        _check_own_index(root, path, table, findings)
        for name in table.column_names:
            target = episodes.stats if name.startswith("stats/") else episodes.columns
            missing = [None] * (len(episodes.places) - len(target.setdefault(name, [])))
            target[name] += missing + table.column(name).to_pylist()
        episodes.places.extend((path, row) for row in range(table.num_rows))
    _check_bounds(root, episodes, declared, findings)
    if tasks is not None:
        _check_task_texts(episodes, tasks, findings)
    return episodes


def _check_columns(path: Path, table: pa.Table, declared: Declared, findings: Findings) -> bool:
    wanted = dict.fromkeys(BOUNDS, pa.int64())
    for key in declared.of_dtype("video"):
        wanted |= {f"videos/{key}/{name}": kind for name, kind in VIDEO_COLUMNS.items()}
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        findings.add(path, f"columns {', '.join(missing)} are missing")
        return False
    for name, kind in wanted.items():
        findings.expect(path, f"type of {name}", table.schema.field(name).type, kind)
        if table.column(name).null_count:
            findings.add(path, f"{name} holds {table.column(name).null_count} nulls")
            return False
    for name in table.column_names:
        if name.startswith("videos/") and name not in wanted:
            findings.add(path, f"column {name} belongs to no video feature in info.json")
    return True


def _check_own_index(root: Path, path: Path, table: pa.Table, findings: Findings) -> None:
    keys = ("meta/episodes/chunk_index", "meta/episodes/file_index")
    if all(key in table.column_names for key in keys):
        for row, (chunk, file) in enumerate(zip(*(table.column(key).to_pylist() for key in keys), strict=True)):
            named = root / EPISODES_PATH.format(chunk_index=chunk, file_index=file)
            if named != path:
                findings.add(path, f"meta/episodes/chunk_index and file_index name {named.relative_to(root)}", row)


def _check_bounds(root: Path, episodes: Episodes, declared: Declared, findings: Findings) -> None:
    """Compare number, length and bounds of every episode with the one before it, and the sums with info.json."""
    columns, expected = episodes.columns, 0
    for position, (path, row) in enumerate(episodes.places):
        number, length, start, stop, chunk, file = (columns[name][position] for name in BOUNDS)
        if number != position:
            findings.add(path, f"episode_index: found {number}, expected {position}", row)
        if start != expected:
            findings.add(path, f"dataset_from_index: found {start}, expected {expected}", row)
        if stop - start != length or length < 1:
            findings.add(
                path, f"length: found {length}, expected dataset_to_index - dataset_from_index = {stop - start}", row
            )
        data = DATA_PATH.format(chunk_index=chunk, file_index=file)
        if not (root / data).is_file():
            findings.add(path, f"data/chunk_index and file_index name {data}, which is missing", row)
        expected = stop
    last, _ = episodes.places[-1] if episodes.places else (root, 0)
    if declared.episodes is not None:
        findings.expect(
            last, "number of episodes (total_episodes in info.json)", len(episodes.places), declared.episodes
        )
    if declared.frames is not None:
        findings.expect(last, "end of the last episode (total_frames in info.json)", expected, declared.frames)


def _check_task_texts(episodes: Episodes, tasks: list[str], findings: Findings) -> None:
    for position, texts in enumerate(episodes.columns.get("tasks", [])):
        unknown = [text for text in texts or [] if text not in tasks]
        if texts is not None and (unknown or not texts):
            path, row = episodes.places[position]
            findings.add(path, f"tasks: found {texts}, expected tasks of meta/tasks.parquet", row)


def episode_of_rows(episodes: Episodes, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the number of the episode of each row of the dataset (rows,), by the bounds; -1 for rows of none."""
    numbers = np.full(rows, -1, np.int64)
    for number, (start, stop) in enumerate(episodes.bounds):
        numbers[max(start, 0) : max(stop, 0)] = number
    return numbers
