"""Shortcuts for tests: convert bags in this process, and read what came out without our own reader."""

from pathlib import Path
from typing import Any

import pandas as pd

from common.cli.config import load
from common.storage.files import read_json
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, Summary, convert
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


def rows(dataset: Path) -> Any:
    """Return all rows as a pandas frame, in the order in which LeRobot concatenates the files."""
    return pd.concat([pd.read_parquet(path) for path in sorted(dataset.glob("data/*/*.parquet"))], ignore_index=True)


def jpegs(dataset: Path, camera: str = "color") -> list[bytes]:
    """Return the stored images of a camera, in order."""
    return [cell["bytes"] for cell in rows(dataset)[f"observation.images.{camera}"]]


def report(dataset: Path) -> Any:
    """Return meta/conversion.json."""
    return read_json(dataset / "meta" / "conversion.json")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
