"""Findings about a dataset, and the opened dataset that the rules look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
import pyarrow.parquet as pq

from common.lerobot.dataset import Dataset

# A rule of LeRobot's format or of the training is broken, or something is unusual that both take as it is.
Kind = Literal["fault", "warning"]


class Finding(NamedTuple):
    """What is wrong where, in one line."""

    kind: Kind
    text: str
    is_refused: bool = False  # a training refuses the dataset for it

    def __str__(self) -> str:
        """Return the finding as it is printed."""
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Opened:
    """A dataset with what could be read of it.

    `columns` has numbers, (rows,) or (rows, dimensions), by feature.
    """

    dataset: Dataset
    columns: dict[str, npt.NDArray[Any]]

    @property
    def root(self) -> Path:
        """The folder of the dataset."""
        return self.dataset.root

    @cached_property
    def files(self) -> list[tuple[Path, int, int]]:
        """The data files in the order in which readers concatenate them, each with its first row and the row after its last."""
        files, start = [], 0
        for path in sorted((self.root / "data").glob("*/*.parquet")):
            stop = start + pq.read_metadata(path).num_rows
            files.append((path, start, stop))
            start = stop
        return files

    def place(self, row: int) -> str:
        """Return in which row of which file a row of the dataset is."""
        path, start, _ = next(file for file in self.files if file[1] <= row < file[2])
        return f"{path.relative_to(self.root)}: row {row - start}"


def expect(file: str, what: str, found: Any, expected: Any) -> Iterator[Finding]:
    """Yield a finding about a file of the dataset unless `found` equals `expected`."""
    if found != expected:
        yield Finding("fault", f"{file}: {what}: found {shorten(found)}, expected {shorten(expected)}")


def shorten(value: Any) -> str:
    """Return the repr of a value, cut where it is too long for a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
