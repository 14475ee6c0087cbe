"""One episode's rows in, one parquet file of a LeRobot dataset out; the numbers that place it can be changed later.

Equal rows give equal bytes, whether they are written at once or renumbered. Images are compressed already, so they
are written without compression, dictionary or statistics.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.lerobot.dataset import Feature, arrow_type

# A reader holds a row group in memory, and so does the writer: small ones stay in memory that was touched before, and
# memory that a process touches for the first time can cost more than all the copying.
GROUP_BYTES = 2 << 20
PLACE = ("episode_index", "index", "task_index")  # the columns that EpisodeOffset decides


class EpisodeOffset(NamedTuple):
    """The place of an episode in its dataset: its number, the number of its first row, and its task (-1: the rows have
    task indices of their own).
    """

    episode_index: int
    first_index: int
    task_index: int


def schema_of(features: Mapping[str, Feature]) -> pa.Schema:
    """Return the data files' schema with the note by which `datasets` (version 4 on) knows the images."""
    noted: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype == "image":
            noted[key] = {"_type": "Image"}
        elif feature.shape == (1,):
            noted[key] = value
        elif feature.dtype != "video":
            noted[key] = {"feature": value, "length": feature.shape[0], "_type": "List"}
    note = json.dumps({"info": {"features": noted}})
    types = {key: _stored_type(feature) for key, feature in features.items() if feature.dtype != "video"}
    return pa.schema(types, metadata={"huggingface": note})


def _stored_type(feature: Feature) -> pa.DataType:
    """Return the column's type with its list items named as parquet names them: what is read again is then the same."""
    column = arrow_type(feature)
    if pa.types.is_fixed_size_list(column):
        return pa.list_(pa.field("element", column.value_type), column.list_size)
    return column


class RowFile:
    """Writes batches of rows, which hold every column but those of PLACE, as row groups of about GROUP_BYTES."""

    def __init__(self, path: Path, schema: pa.Schema, numbers: EpisodeOffset) -> None:
        self._schema, self._numbers, self._done = schema, numbers, 0
        self._waiting: list[pa.RecordBatch] = []
        self._writer = _open(path, schema)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows of the episode."""
        self._waiting.append(batch)
        if sum(waiting.nbytes for waiting in self._waiting) >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._waiting)
        self._waiting = []
        _write_group(self._writer, rows, self._schema, self._numbers, self._done)
        self._done += rows.num_rows


def numbers_in(path: Path) -> EpisodeOffset:
    """Return the numbers under which an episode's file was written, from its footer."""
    group = pq.read_metadata(path).row_group(0)
    columns = (group.column(at) for at in range(group.num_columns))
    least = {column.path_in_schema: column.statistics for column in columns}
    return EpisodeOffset(*(int(least[key].min) for key in PLACE))


def renumber(source: Path, target: Path, numbers: EpisodeOffset) -> None:
    """Write the rows of the episode's file `source` as `target`, under other numbers."""
    with pq.ParquetFile(source) as file:
        schema, done = file.schema_arrow, 0
        writer = _open(target, schema)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            _write_group(writer, rows, schema, numbers, done)
            done += rows.num_rows
        writer.close()


def write_rows(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], numbers: EpisodeOffset) -> None:
    """Write a whole episode from its batches."""
    file = RowFile(path, schema, numbers)
    for batch in batches:
        file.add(batch)
    file.close()


def _open(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    images = {f"{field.name}.bytes" for field in schema if pa.types.is_struct(field.type)}
    paths = [name for field in schema for name in _leaves(field)]
    others = [name for name in paths if name not in images]
    compression = {name: "none" if name in images else "snappy" for name in paths}
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=others, write_statistics=others)


def _leaves(field: pa.Field) -> list[str]:
    if pa.types.is_struct(field.type):
        return [f"{field.name}.{child.name}" for child in field.type.fields]
    return [f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name]


def _write_group(
    writer: pq.ParquetWriter, rows: pa.Table, schema: pa.Schema, numbers: EpisodeOffset, done: int
) -> None:
    count = rows.num_rows
    placed = {
        "episode_index": np.full(count, numbers.episode_index, np.int64),
        "index": np.arange(numbers.first_index + done, numbers.first_index + done + count, dtype=np.int64),
    }
    if numbers.task_index >= 0:
        placed["task_index"] = np.full(count, numbers.task_index, np.int64)
    columns = [pa.array(placed[name]) if name in placed else rows.column(name) for name in schema.names]
    table = pa.table(columns, names=schema.names).cast(schema).combine_chunks()
    writer.write_table(table, row_group_size=count)
