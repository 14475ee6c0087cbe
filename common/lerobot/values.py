"""Columns of data files as arrays, and the values in them that are not what meta/info.json declares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.metadata import INDEX_COLUMNS, Feature


class Fault(NamedTuple):
    """The first value of a column that cannot be taken: its row, and what is wrong with it."""

    row: int
    text: str


def read_table(path: Path, keys: Sequence[str]) -> pa.Table:
    """Return columns of one data file; pq.read_table takes several times the memory where it has many row groups."""
    with pq.ParquetFile(path) as file:
        return file.read(list(keys))


def as_array(key: str, column: pa.ChunkedArray, feature: Feature) -> npt.NDArray[Any]:
    """Return a column of numbers as (rows, *shape) float32, one of INDEX_COLUMNS as (rows,) in its own type.

    Vectors of one number are stored as plain numbers. Raises ValueError naming the row of a null or of a list of another
    length: its values would move into other rows.
    """
    values = column.combine_chunks()
    fault = find_fault(values, feature.shape)
    if fault is not None:
        raise ValueError(f"row {fault.row} {fault.text}")
    while is_list(values.type):
        values = values.flatten()
    is_index = key in INDEX_COLUMNS
    # A copy even of the right type, because Arrow's memory is read-only.
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).astype(feature.dtype if is_index else "float32")
    return array if is_index else array.reshape(len(column), *feature.shape)


def explain(data: Path, shapes: Mapping[str, tuple[int, ...]], error: Exception) -> UserError:
    """Return the refusal of a data file, or of all below `data`: the first fault in it, `error` where there is none.

    `shapes` has the declared shape of each column.
    """
    for path in [data] if data.is_file() else sorted(data.glob("*/*.parquet")):
        try:
            fault = _first_fault(path, shapes)
        except (pa.ArrowException, OSError):
            continue
        if fault:
            return UserError(f"{fault}; repair it or leave its episode out of the dataset")
    return error if isinstance(error, UserError) else UserError(f"{data} cannot be read: {one_line(error)}")


def is_list(kind: pa.DataType) -> bool:
    """Return whether the type is a list, of whatever kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def find_fault(values: pa.Array, shape: tuple[int, ...]) -> Fault | None:
    """Return the first row whose value is null, holds a null, or is a list of another length than `shape` has."""
    rows = len(values)
    per_row = 1
    for size in (*(() if shape == (1,) and not is_list(values.type) else shape), None):
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // per_row
            return Fault(row, "is null" if per_row == 1 else "holds a null")
        if size is None or not rows:
            return None
        if not is_list(values.type):
            return Fault(0, f"is {values.type}, the dataset declares shape {list(shape)}")
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if (lengths != size).any():
            bad = int(np.flatnonzero(lengths != size)[0])
            return Fault(bad // per_row, f"has {lengths[bad]} values, the dataset declares {size}")
        values, per_row = values.flatten(), per_row * size
    return None


def _first_fault(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    with pq.ParquetFile(path) as file:
        for key, shape in shapes.items():
            if key not in file.schema_arrow.names:
                return f"{path} has no column {key}"
            fault = find_fault(file.read([key]).column(key).combine_chunks(), shape)
            if fault is not None:
                return f"{path}: row {fault.row}: {key} {fault.text}"
    return None
