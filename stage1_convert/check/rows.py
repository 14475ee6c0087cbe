"""Check the data files but for their images, and return the numeric columns of the whole dataset."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import one_line
from common.lerobot.metadata import DATA_PATH, INDEX_COLUMNS, Feature
from stage1_convert.check.findings import Findings
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes, episode_of_rows

MAX_GROUP_BYTES = 1 << 31  # Arrow's binary offsets are int32: a reader cannot load a larger column chunk


class Part(NamedTuple):
    """A data file and its rows of the dataset, from `start` to `stop` (half open)."""

    path: Path
    start: int
    stop: int


class Rows(NamedTuple):
    """Every numeric column of the dataset by feature, (rows,) or (rows, dimensions), and the files in order."""

    columns: dict[str, npt.NDArray[Any]]
    parts: list[Part]


def check_file_names(folder: Path, suffix: str, per_chunk: int, findings: Findings) -> None:
    """Files must be numbered from chunk-000/file-000 on; readers take them in the order of their names."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        match = re.fullmatch(rf"chunk-(\d{{3}})/file-(\d{{3}})\.{suffix}", name)
        if not match:
            findings.add(path, f"does not belong here: expected the name chunk-NNN/file-NNN.{suffix}")
        else:
            files.append((int(match[1]), int(match[2]), path))
    for number, (chunk, file, path) in enumerate(files):
        if (chunk, file) != divmod(number, per_chunk):
            expected = "chunk-{:03d}/file-{:03d}".format(*divmod(number, per_chunk))
            findings.add(path, f"is file {number} in the order of the names, expected the name {expected}.{suffix}")
            return


def check_rows(root: Path, declared: Declared, episodes: Episodes | None, findings: Findings) -> Rows | None:
    """Check every column of the data files but the images; None when the files cannot be concatenated."""
    paths = sorted((root / "data").glob("*/*.parquet"))
    if not paths:
        findings.add(root / "data", "holds no data file: chunk-000/file-000.parquet is missing")
        return None
    parts: list[Part] = []
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    complete = True
    for path in paths:
        table = _table(path, declared, findings)
        if table is None:
            complete = False
            continue
        start = parts[-1].stop if parts else 0
        parts.append(Part(path, start, start + table.num_rows))
        found = {key: _values(path, key, table.column(key), f, findings) for key, f in _numeric(declared).items()}
        complete &= all(values is not None for values in found.values())
        for key, values in found.items():
            columns.setdefault(key, []).append(values)  # type: ignore[arg-type]
    if not complete:
        return None
    rows = Rows({key: np.concatenate(arrays) for key, arrays in columns.items()}, parts)
    if declared.frames is not None:
        findings.expect(
            paths[-1], "rows of all data files (total_frames in info.json)", parts[-1].stop, declared.frames
        )
    _check_index_columns(rows, declared, episodes, findings)
    if episodes is not None:
        _check_files(root, rows, episodes, findings)
    return rows


def _numeric(declared: Declared) -> dict[str, Feature]:
    return {key: f for key, f in declared.columns.items() if f.dtype not in ("image", "string")}


def _table(path: Path, declared: Declared, findings: Findings) -> pa.Table | None:
    """Check the columns and row groups of a file, and return the columns without images."""
    findings.files.add(path)
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            sizes = [_largest_chunk(metadata.row_group(number)) for number in range(metadata.num_row_groups)]
            if not _check_schema(path, schema, declared, findings):
                return None
            table = file.read([key for key in schema.names if declared.features[key].dtype != "image"])
    except (pa.ArrowException, OSError) as error:
        findings.add(path, f"cannot be read: {one_line(error)}")
        return None
    for number, size in enumerate(sizes):
        if size >= MAX_GROUP_BYTES:
            findings.add(path, f"row group {number} holds a column of {size:,} bytes, expected less than 2 GiB")
    if not table.num_rows:
        findings.add(path, "holds no rows")
    return table


def _largest_chunk(group: Any) -> int:
    return max((group.column(index).total_uncompressed_size for index in range(group.num_columns)), default=0)


def _check_schema(path: Path, schema: pa.Schema, declared: Declared, findings: Findings) -> bool:
    """Compare the columns with the declared features; False when columns are missing or of another type."""
    expected, found = list(declared.columns), list(schema.names)
    missing, extra = [k for k in expected if k not in found], [k for k in found if k not in expected]
    if missing:
        findings.add(path, f"columns {', '.join(missing)} are missing, which info.json declares")
    if extra:
        findings.add(path, f"columns {', '.join(extra)} are in no feature of info.json: LeRobot refuses the dataset")
    if not missing and not extra and found != expected:
        findings.add(path, f"columns: found the order {found}, expected the features' {expected}")
    fits = True
    for key in found:
        feature, kind = declared.columns.get(key), schema.field(key).type
        if feature is not None and not _fits(kind, feature, key):
            findings.add(path, f"type of {key}: found {kind}, expected {_type_text(feature)}")
            fits = False
    return fits and not missing and not extra


def _fits(kind: pa.DataType, feature: Feature, key: str) -> bool:
    if feature.dtype == "image":
        fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        return fields == {"bytes": pa.binary(), "path": pa.string()}
    if key == "timestamp" and kind == pa.float64():
        return True  # readers cast it
    for size in () if feature.shape == (1,) else feature.shape:
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            return False
        if pa.types.is_fixed_size_list(kind) and kind.list_size != size:
            return False
        kind = kind.value_type
    return bool(kind == pa.type_for_alias(feature.dtype))


def _type_text(feature: Feature) -> str:
    if feature.dtype == "image":
        return "struct<bytes: binary, path: string>"
    if feature.shape == (1,):
        return feature.dtype
    return f"lists of {'x'.join(map(str, feature.shape))} {feature.dtype}"


def _values(
    path: Path, key: str, column: pa.ChunkedArray, feature: Feature, findings: Findings
) -> npt.NDArray[Any] | None:
    """Return a column as an array; None after adding a finding about nulls or lists of another length than declared."""
    flat = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    rows = len(column)
    for size in () if feature.shape == (1,) else feature.shape:
        if flat.null_count:
            break
        if not pa.types.is_fixed_size_list(flat.type):
            lengths = flat.value_lengths().to_numpy()
            if (lengths != size).any():
                findings.rows(
                    path, lengths != size, _describe_difference(key, lengths, np.full(len(lengths), size), " values")
                )
                return None
        flat = flat.flatten()
    if flat.null_count:
        empty = flat.is_null().to_numpy(zero_copy_only=False).reshape(rows, -1).any(axis=1)
        findings.rows(path, empty, lambda _: f"{key} is null")
        return None
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    values = values if key in INDEX_COLUMNS else values.reshape(rows, -1)
    if feature.dtype.startswith("float"):
        infinite = ~np.isfinite(values.reshape(rows, -1))
        findings.rows(
            path, infinite.any(axis=1), lambda row: f"{key}: found {values[row].tolist()}, expected finite numbers"
        )
    return values


def _check_index_columns(rows: Rows, declared: Declared, episodes: Episodes | None, findings: Findings) -> None:
    """Recompute index, frame_index, episode_index and timestamp from the bounds, and compare the columns with them."""
    count = rows.parts[-1].stop
    expected: dict[str, npt.NDArray[Any]] = {"index": np.arange(count)}
    if episodes is not None:
        numbers = episode_of_rows(episodes, count)
        starts = np.array([start for start, _ in episodes.bounds] or [0])
        expected |= {"episode_index": numbers, "frame_index": np.arange(count) - starts[numbers]}
        expected["timestamp"] = (expected["frame_index"] / declared.fps).astype(np.float32)
    elif "frame_index" in rows.columns:
        expected["timestamp"] = (rows.columns["frame_index"] / declared.fps).astype(np.float32)
    for key, right in expected.items():
        if key in rows.columns:
            found = rows.columns[key].astype(right.dtype)
            _compare(rows, found != right, findings, _describe_difference(key, found, right))
    tasks = rows.columns.get("task_index")
    if tasks is not None and declared.tasks is not None:
        n_tasks = declared.tasks
        bad = (tasks < 0) | (tasks >= n_tasks)
        _compare(rows, bad, findings, lambda row: f"task_index: found {tasks[row]}, expected 0 to {n_tasks - 1}")


def _describe_difference(
    key: str, found: npt.NDArray[Any], right: npt.NDArray[Any], unit: str = ""
) -> Callable[[int], str]:
    return lambda row: f"{key}: found {found[row]:.9g}{unit}, expected {right[row]:.9g}"


def _compare(rows: Rows, bad: npt.NDArray[np.bool_], findings: Findings, describe: Callable[[int], str]) -> None:
    """Add findings about rows of the whole dataset to the files they are in, with their row numbers there."""
    for part in rows.parts:
        findings.rows(part.path, bad[part.start : part.stop], lambda row, start=part.start: describe(start + row))  # type: ignore[misc]


def _check_files(root: Path, rows: Rows, episodes: Episodes, findings: Findings) -> None:
    """The rows of an episode must be in the file that data/chunk_index and data/file_index name."""
    part_of = {part.path: part for part in rows.parts}
    columns = episodes.columns
    for number, (start, stop) in enumerate(episodes.bounds):
        chunk, file = columns["data/chunk_index"][number], columns["data/file_index"][number]
        part = part_of.get(root / DATA_PATH.format(chunk_index=chunk, file_index=file))
        if part is not None and not part.start <= start <= stop <= part.stop:
            path, row = episodes.places[number]
            name = part.path.relative_to(root)
            findings.add(
                path,
                f"rows {start} to {stop}: data/file_index names {name}, which holds {part.start} to {part.stop}",
                row,
            )


def check_task_use(rows: Rows, episodes: Episodes, tasks: list[str], findings: Findings) -> None:
    """The tasks of an episode must be those of its rows."""
    numbers = rows.columns.get("task_index")
    for number, texts in enumerate(episodes.columns.get("tasks", [])):
        start, stop = episodes.bounds[number]
        used = np.unique(numbers[start:stop]).tolist() if numbers is not None else []
        shown = sorted(tasks[index] for index in used if 0 <= index < len(tasks))
        if texts is not None and used and sorted(texts) != shown:
            path, row = episodes.places[number]
            findings.add(path, f"tasks: found {texts}, expected {shown}, the tasks of its rows", row)


def check_actions(rows: Rows, declared: Declared, episodes: Episodes, findings: Findings) -> None:
    """Recompute actions that follow from the states, delta or next_position, and compare them by joint name."""
    state, action = declared.features.get("observation.state"), declared.features.get("action")
    meaning = action.info.get("action_meaning") if action else None
    if state is None or action is None or meaning not in ("delta", "next_position"):
        return
    joints = [name for name in action.names or () if name in (state.names or ())]
    picked = [[names.index(joint) for joint in joints] for names in (state.names or (), action.names or ())]
    now = rows.columns["observation.state"][:, picked[0]].astype(np.float64)
    found = rows.columns["action"][:, picked[1]].astype(np.float64)
    following = np.concatenate([now[1:], now[-1:]])
    for _, stop in episodes.bounds:
        following[stop - 1 : stop] = now[stop - 1 : stop]
    expected = following - now if meaning == "delta" else following
    off = np.abs(found - expected)
    off = np.minimum(off, np.abs(off - 2 * math.pi))  # a delta takes the shortest arc
    limit = 1e-6 + 4e-7 * np.abs(now).max(initial=0.0)  # both states were rounded to float32
    _compare(
        rows,
        ~(off <= limit).all(axis=1),
        findings,
        lambda row: f"action: found {found[row].tolist()}, expected {expected[row].tolist()} ({meaning})",
    )
