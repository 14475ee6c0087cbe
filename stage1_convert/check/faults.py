"""Findings in, as they are found; an ordered list of them, each with its file, its row and what was expected, out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import one_line


class Finding(NamedTuple):
    """What is wrong: in which file (relative to the dataset), at which of its rows (None: no row in particular)."""

    file: str
    row: int | None
    text: str

    def __str__(self) -> str:
        """Return the fault as one line."""
        place = self.file if self.row is None else f"{self.file}: row {self.row}"
        return f"{place}: {self.text}"


class Findings:
    """Collects what is wrong with the dataset at `root`, and which files were looked into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[Finding] = []
        self.files: set[Path] = set()

    def add(self, path: Path, text: str, row: int | None = None) -> None:
        """Note a fault of the file or folder `path`."""
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        self.found.append(Finding(name, row, text))

    def expect(self, path: Path, what: str, found: Any, expected: Any) -> None:
        """Note a fault unless `found` equals `expected`."""
        if found != expected:
            self.add(path, f"{what}: found {_short(found)}, expected {_short(expected)}")

    def rows(self, path: Path, bad: npt.NDArray[np.bool_], say: Callable[[int], str]) -> None:
        """Note the first row where `bad` (rows,) is true, in the words of `say`, and how many more there are."""
        at = np.flatnonzero(bad)
        if len(at):
            more = f" (and {len(at) - 1} more rows)" if len(at) > 1 else ""
            self.add(path, say(int(at[0])) + more, int(at[0]))

    def read(self, path: Path) -> pa.Table | None:
        """Return a parquet file's table, or None after noting why it cannot be read."""
        self.files.add(path)
        try:
            return pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            self.add(path, "is missing" if not path.exists() else f"cannot be read: {one_line(error)}")
            return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
