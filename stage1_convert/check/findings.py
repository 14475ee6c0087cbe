"""Findings about a dataset, and the opened dataset that the rules look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common.lerobot.dataset import Dataset

# What a finding breaks: a rule of LeRobot's format or of the training; a rule of ours alone, about our own records; none.
Kind = Literal["fault", "own rule", "warning"]


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

    def compare(self, key: str, right: npt.NDArray[Any], tolerance: float = 0.0) -> Iterator[Finding]:
        """Yield a finding about the first row of a column that is off by more than the tolerance, and how many others are."""
        found = self.columns.get(key)
        if found is None or found.shape != right.shape:
            return
        off = np.abs(found.astype(np.float64) - right).reshape(len(right), -1).max(axis=1) > tolerance
        for row in np.flatnonzero(off)[:1]:
            more = f" (and {off.sum() - 1} more rows)" if off.sum() > 1 else ""
            yield Finding(
                "fault", f"{self.place(row)}: {key}: found {_text(found[row])}, expected {_text(right[row])}{more}"
            )


def expect(file: str, what: str, found: Any, expected: Any, kind: Kind = "fault") -> Iterator[Finding]:
    """Yield a finding about a file of the dataset unless `found` equals `expected`."""
    if found != expected:
        yield Finding(kind, f"{file}: {what}: found {shorten(found)}, expected {shorten(expected)}")


def shorten(value: Any) -> str:
    """Return the repr of a value, cut where it is too long for a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _text(value: Any) -> str:
    return "[" + ", ".join(f"{number:.7g}" for number in value) + "]" if np.ndim(value) else f"{value:.9g}"
