"""Columns of parquet files as memory-mapped arrays, through a copy that `datasets` keeps in a cache."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError, one_line
from common.lerobot.metadata import INDEX_COLUMNS, Feature
from common.lerobot.values import find_fault, first_fault, is_list
from common.storage.files import exclusive_lock

T = TypeVar("T")
log = logging.getLogger(__name__)


def mapped(data: Path, names: Sequence[str], folder: Path) -> Any:
    """Return the named columns of all parquet files below `data`, read through `datasets`' copy of them in `folder`.

    Raises UserError when they cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    paths = [str(path) for path in sorted(data.glob("*/*.parquet"))]  # the order in which readers concatenate them
    folder.mkdir(parents=True, exist_ok=True)
    # `datasets` turns the whole path of this folder into a file name, which can get too long: give it a short path.
    handle = os.open(folder, os.O_RDONLY)
    try:
        with exclusive_lock(folder.with_suffix(".lock"), "copies the same columns"):
            return datasets.Dataset.from_parquet(paths, columns=names, cache_dir=f"/proc/self/fd/{handle}").data
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"{data} cannot be read: {one_line(cause)}") from error
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        # `datasets` trusts the description of the features in the files' metadata.
        raise UserError(f"{data} has damaged metadata of its features: {one_line(error)}") from error
    finally:
        os.close(handle)


def copy_again_if_damaged(folder: Path, read: Callable[[], T]) -> T:
    """Call `read`, which reads from a folder of copies; when an existing copy is damaged, remove it and read again."""
    existed = folder.exists()
    try:
        return read()
    except UserError as error:
        if not existed:
            raise
        log.warning("%s is copied again, it may be damaged: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return read()


def as_array(key: str, column: pa.ChunkedArray, feature: Feature) -> npt.NDArray[Any]:
    """Return a column of numbers as (rows, *shape) float32, one of INDEX_COLUMNS as (rows,) in its own type.

    Vectors of one number are stored as plain numbers. Raises ValueError naming the row of a null or of a list of another
    length: its values would move into other rows.
    """
    fault = find_fault(column, feature.shape)
    if fault is not None:
        raise ValueError(f"row {fault.row} {fault.text}")
    flat = column
    while is_list(flat.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in flat.chunks], type=flat.type.value_type)
    is_index = key in INDEX_COLUMNS
    values: npt.NDArray[Any] = flat.to_numpy().astype(feature.dtype if is_index else "float32", copy=False)
    return values if is_index else values.reshape(len(column), *feature.shape)


def explain(data: Path, shapes: Mapping[str, tuple[int, ...]], error: Exception) -> UserError:
    """Return the refusal of a data file, or of all below `data`: the first faulty value, `error` where there is none."""
    for path in [data] if data.is_file() else sorted(data.glob("*/*.parquet")):
        try:
            fault = first_fault(path, shapes)
        except (pa.ArrowException, OSError):
            continue
        if fault:
            return UserError(f"{fault}; repair it or leave its episode out of the dataset")
    return error if isinstance(error, UserError) else UserError(f"{data} cannot be read: {one_line(error)}")
