"""The parquet file that holds the rows of one episode of a LeRobot dataset.

Equal rows give equal bytes, whether they are written at once or renumbered later. Images are compressed already, so they
are written without compression, dictionary or statistics.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.lerobot.metadata import Feature, arrow_type
from common.lerobot.values import read_table

# A reader holds a row group in memory, and so does the writer: small ones stay in memory that was touched before, and
# memory that a process touches for the first time can cost more than all the copying.
GROUP_BYTES = 2 << 20


class EpisodeOffset(NamedTuple):
    """What an episode's rows say of its place in the dataset: its number, the number of its first row, and its task."""

    episode_index: int
    first_index: int
    task_index: int


OFFSET_COLUMNS = ("episode_index", "index", "task_index")
UNPLACED = EpisodeOffset(0, 0, 0)  # under which a bag's episodes are written before they are in a dataset


def data_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Return the schema of the data files, with the note by which `datasets` (version 4 on) knows the images."""
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


class EpisodeWriter:
    """Writes batches of rows, which hold every column but OFFSET_COLUMNS, as row groups of about GROUP_BYTES."""

    def __init__(self, path: Path, schema: pa.Schema, offset: EpisodeOffset = UNPLACED) -> None:
        images = {f"{field.name}.bytes" for field in schema if pa.types.is_struct(field.type)}
        leaves = [leaf for field in schema for leaf in _leaves(field)]
        others = [leaf for leaf in leaves if leaf not in images]
        compression = {leaf: "none" if leaf in images else "snappy" for leaf in leaves}
        self._writer = pq.ParquetWriter(
            path, schema, compression=compression, use_dictionary=others, write_statistics=others
        )
        self._schema, self._offset = schema, offset
        self._waiting: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Append the next rows of the episode."""
        self._waiting.append(batch)
        if sum(waiting.nbytes for waiting in self._waiting) >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows and the footer."""
        if self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self.add_group(pa.Table.from_batches(self._waiting))
        self._waiting = []

    def add_group(self, rows: pa.Table) -> None:
        """Write rows as one row group, with OFFSET_COLUMNS as they are in this file."""
        count, (episode_index, first, task_index) = rows.num_rows, self._offset
        placed = {
            "episode_index": np.full(count, episode_index, np.int64),
            "index": np.arange(first, first + count, dtype=np.int64),
            "task_index": np.full(count, task_index, np.int64),
        }
        columns = [pa.array(placed[name]) if name in placed else rows.column(name) for name in self._schema.names]
        table = pa.table(columns, names=self._schema.names).cast(self._schema).combine_chunks()
        self._writer.write_table(table, row_group_size=count)
        self._offset = self._offset._replace(first_index=first + count)


def _leaves(field: pa.Field) -> list[str]:
    if pa.types.is_struct(field.type):
        return [f"{field.name}.{child.name}" for child in field.type.fields]
    return [f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name]


def read_offset(path: Path) -> EpisodeOffset:
    """Return the offset under which an episode's file was written, from its footer."""
    group = pq.read_metadata(path).row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    smallest = {column.path_in_schema: column.statistics for column in columns}
    return EpisodeOffset(*(int(smallest[name].min) for name in OFFSET_COLUMNS))


def renumber(source: Path, target: Path, offset: EpisodeOffset) -> None:
    """Write the rows of the episode's file `source` as `target`, under another offset."""
    with pq.ParquetFile(source) as file:
        writer = EpisodeWriter(target, file.schema_arrow, offset)
        for group in range(file.num_row_groups):
            writer.add_group(file.read_row_group(group))
        writer.close()


def read_columns(path: Path, keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return columns of numbers of an episode's file, (rows,) or (rows, dimensions) each."""
    table = read_table(path, keys)
    return {key: _values(table.column(key)) for key in keys}


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    is_vector = pa.types.is_fixed_size_list(array.type)
    values: npt.NDArray[Any] = (array.flatten() if is_vector else array).to_numpy()
    return values.reshape(len(array), -1) if is_vector else values
