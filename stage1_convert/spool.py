"""Rows of numbers in, a few at a time; one array of them all out, which memory need not hold when it is long."""

import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MEMORY_BYTES = 16 << 20


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
        self._waiting, self._waiting_bytes = [rows[:0]], 0
        return rows
