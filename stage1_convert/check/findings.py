"""Findings about a dataset, in the order in which they are added, and the files that were checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from common.cli.command import one_line


class Finding(NamedTuple):
    """Something that is wrong: in which file (relative to the dataset), in which of its rows (None: not one row)."""

    file: str
    row: int | None
    text: str
    is_hint: bool = False  # training takes it, and so does LeRobot

    def __str__(self) -> str:
        """Return the finding as one line."""
        where = self.file if self.row is None else f"{self.file}: row {self.row}"
        return f"{'hint: ' if self.is_hint else ''}{where}: {self.text}"


class Findings:
    """Collects the findings about the dataset at `root`, and the files that were checked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[Finding] = []
        self.files: set[Path] = set()

    def add(self, path: Path, text: str, row: int | None = None, is_hint: bool = False) -> None:
        """Add a finding about the file or folder `path`."""
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        self.found.append(Finding(name, row, text, is_hint))

    def hint(self, path: Path, text: str) -> None:
        """Add something unusual that training and LeRobot take as it is."""
        self.add(path, text, is_hint=True)

    def expect(self, path: Path, what: str, found: Any, expected: Any) -> None:
        """Add a finding unless `found` equals `expected`."""
        if found != expected:
            self.add(path, f"{what}: found {shorten(found)}, expected {shorten(expected)}")

    def rows(self, path: Path, bad: npt.NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        """Add one finding about the first row where `bad` (rows,) is true, and the number of the others."""
        rows = np.flatnonzero(bad)
        if len(rows):
            more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
            self.add(path, describe(int(rows[0])) + more, int(rows[0]))

    def validate(self, model: type[BaseModel], path: Path, tree: Any, prefix: str = "") -> set[str]:
        """Add a finding for each value of a JSON tree that does not fit the model; returns the keys that have one."""
        try:
            model.model_validate(tree)
        except ValidationError as error:
            for detail in error.errors():
                key = ".".join(map(str, (*prefix.split(), *detail["loc"]))) or "the file"
                expected = detail["msg"].replace("Input should be", "expected")
                found = f"{key}: found {shorten(detail['input'])}, {expected}"
                self.add(path, f"{key} is missing" if detail["type"] == "missing" else found)
            return {str(detail["loc"][0]) if detail["loc"] else "" for detail in error.errors()}
        return set()

    def read(self, path: Path) -> pa.Table | None:
        """Return the table of a parquet file, or None after adding why it cannot be read."""
        self.files.add(path)
        try:
            return pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            self.add(path, "is missing" if not path.exists() else f"cannot be read: {one_line(error)}")
            return None


def shorten(value: Any) -> str:
    """Return the repr of a value, cut where it is too long for a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
