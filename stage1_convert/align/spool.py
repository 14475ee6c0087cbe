"""Rows of numbers in, a few at a time; one array of them all out, which memory need not hold when it is long."""

import mmap
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MEMORY_BYTES = 1 << 20
BLOCK_BYTES = 4 << 20  # of a mapped array, looked at in one go


class Spool:
    """Collects rows: in memory while they are few, in a file without a name below `folder` when they are many."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._waiting: list[npt.NDArray[Any]] = []
        self._waiting_bytes = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Append rows (rows,) or (rows, dimensions), always of the same kind."""
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes > MEMORY_BYTES:
            self._flush()

    def array(self) -> npt.NDArray[Any]:
        """Return all rows; mapped from the file, read only, when there is one. Nothing can be added any more."""
        if self._file is None:
            return np.concatenate(self._waiting)
        model = self._flush()
        self._file.flush()
        rows: npt.NDArray[Any] = np.memmap(self._file, model.dtype, "r").reshape(-1, *model.shape[1:])
        self._file.close()
        return rows

    def _flush(self) -> npt.NDArray[Any]:
        rows = np.concatenate(self._waiting)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by array)
        self._file.write(rows.data)
        self._waiting, self._waiting_bytes = [rows[:0].copy()], 0  # a view would keep all of them
        return rows


def forget(*arrays: npt.NDArray[Any]) -> None:
    """Let go of the memory that mapped arrays take; what is looked at again comes back from their files."""
    for array in arrays:
        mapped: mmap.mmap | None = getattr(array, "_mmap", None)  # where numpy's memmap has it, views of it, too
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def thin(rows: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Return every `step`-th row of an array that may be mapped, and is let go of."""
    found = np.empty((len(range(0, len(rows), step)), *rows.shape[1:]), rows.dtype)
    block = max(1, BLOCK_BYTES // (step * max(rows[:1].nbytes, 1)))
    for first in range(0, len(found), block):
        found[first : first + block] = rows[first * step : (first + block) * step : step]
        forget(rows)
    return found


def take(rows: npt.NDArray[Any], index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return rows[index] of an array that may be mapped, and is let go of; `index` ascends."""
    span = int(index[-1] - index[0]) if len(index) else 0
    found = [rows[:0]]
    for part in np.array_split(index, 1 + span * rows.strides[0] // BLOCK_BYTES):
        found.append(np.asarray(rows[part]))
        forget(rows)
    return np.concatenate(found)
