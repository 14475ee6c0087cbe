"""Shortcuts for tests: convert bags in this process, and read what came out without our own reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.cli.config import load
from common.storage.files import read_json
from stage1_convert.__main__ import main
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, RefusedError, Summary, convert
from stage1_convert.sources.folder import LocalBags
from tests.stage1_convert.recording import Recording


def run(src: Path, out: Path, *overrides: str, workers: int = 0, strict: bool = False) -> Summary:
    """Convert with `key=value` overrides, in this process unless there are workers."""
    return convert(LocalBags(src), out, load(Config, None, overrides), Options(workers, strict))


def convert_one(folder: Path, recording: Recording, *overrides: str) -> Path:
    """Write a recording as the only bag below `folder` and return its dataset."""
    recording.write(folder / "src" / "bag")
    run(folder / "src", folder / "out", *overrides)
    return folder / "out"


def command(folder: Path, *flags: str) -> int:
    """Run the command from a folder's `src` to its `out` and return its exit code."""
    return main(["--src", str(folder / "src"), "--out", str(folder / "out"), "--workers", "1", *flags])


def reason(folder: Path, recording: Recording, *overrides: str) -> str:
    """Return why the only bag of a folder is refused; nothing else may be left there."""
    recording.write(folder / "src" / "bag")
    with pytest.raises(RefusedError) as caught:
        run(folder / "src", folder / "out", *overrides)
    assert [path.name for path in folder.iterdir()] == ["src"]
    ((bag, text),) = caught.value.refused
    assert bag == "bag"
    assert text in str(caught.value)
    return text


def rows(dataset: Path, folder: str = "data") -> Any:
    """Return all rows as a pandas frame, in the order in which LeRobot concatenates the files."""
    return pd.concat(
        [pd.read_parquet(path) for path in sorted(dataset.glob(f"{folder}/*/*.parquet"))], ignore_index=True
    )


def states_of(dataset: Path) -> Any:
    """Return the states of all rows (rows, dimensions)."""
    return np.stack(rows(dataset)["observation.state"])


def actions_of(dataset: Path) -> Any:
    """Return the actions of all rows (rows, dimensions)."""
    return np.stack(rows(dataset)["action"])


def sources_of(dataset: Path) -> Any:
    """Return the tick of every row, and the number and stamp of the message that it shows of each stream."""
    return rows(dataset, "meta/sync")


def shown(dataset: Path, stream: str = "color") -> list[int]:
    """Return the messages of a stream that the rows show, by their numbers."""
    numbers: list[int] = sources_of(dataset)[f"{stream}.message"].tolist()
    return numbers


def jpegs(dataset: Path, camera: str = "color") -> list[bytes]:
    """Return the stored images of a camera, in order."""
    return [cell["bytes"] for cell in rows(dataset)[f"observation.images.{camera}"]]


def report(dataset: Path) -> Any:
    """Return meta/conversion.json."""
    return read_json(dataset / "meta" / "conversion.json")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
