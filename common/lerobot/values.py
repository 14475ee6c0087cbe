"""Values of data files that are not what meta/info.json declares: nulls, and lists of another length."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class Fault(NamedTuple):
    """The first value of a column that cannot be taken: its row, and what is wrong with it."""

    row: int
    text: str


def is_list(kind: pa.DataType) -> bool:
    """Return whether the type is a list, of whatever kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def find_fault(column: pa.ChunkedArray, shape: tuple[int, ...]) -> Fault | None:
    """Return the first row whose value is null, holds a null, or is a list of another length than `shape` has."""
    first: Fault | None = None
    start = 0
    for chunk in column.chunks:
        fault = _chunk_fault(chunk, shape)
        if fault is not None:
            first = Fault(start + fault.row, fault.text)
            break
        start += len(chunk)
    return first


def first_fault(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return "<file>: row <row>: <column> <fault>" of a data file's first faulty column; None when there is none.

    `shapes` has the declared shape of each column. Raises what Arrow raises on a damaged file.
    """
    with pq.ParquetFile(path) as file:
        for key, shape in shapes.items():
            fault = find_fault(file.read([key]).column(key), shape) if key in file.schema_arrow.names else None
            if fault is not None:
                return f"{path}: row {fault.row}: {key} {fault.text}"
    return None


def _chunk_fault(values: pa.Array, shape: tuple[int, ...]) -> Fault | None:
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
