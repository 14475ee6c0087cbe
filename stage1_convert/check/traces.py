"""Our own records beside a dataset, meta/conversion.json and meta/sync, in; where they contradict it, out."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError
from common.lerobot.dataset import ACTION, IMAGES, data_file
from common.storage.files import read_json
from stage1_convert.check.faults import Findings
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes

SYNC_PATH = "meta/sync/chunk-{:03d}/file-{:03d}.parquet"


def check_traces(root: Path, declared: Declared, episodes: Episodes, faults: Findings) -> None:
    """Check conversion.json and every episode's file in meta/sync; other tools' datasets have neither."""
    record, folder = root / "meta" / "conversion.json", root / "meta" / "sync"
    if not record.exists() and not folder.exists():
        return
    lengths = episodes.columns["length"]
    told, merged = _check_record(record, declared, lengths, faults)
    expected = {root / SYNC_PATH.format(*data_file(number)): number for number in range(len(lengths))}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in expected):
        faults.add(path, "belongs to no episode")
    for path, number in expected.items():
        if merged and number not in told:  # an episode that another tool made
            continue
        table = faults.read(path)
        if table is not None:
            _check_sync(path, table, lengths[number], declared.fps, faults)
            if number in told:
                _check_told(record, number, told[number], table, faults)


def _check_record(
    path: Path, declared: Declared, lengths: list[int], faults: Findings
) -> tuple[dict[int, dict[str, Any]], bool]:
    """Hold conversion.json against info.json; returns what it tells of each episode, and whether datasets were merged:
    then it may tell nothing of some.
    """
    faults.files.add(path)
    told: dict[int, dict[str, Any]] = {}
    try:
        record = read_json(path)
        entries = [(bag, episode) for bag in record["bags"] for episode in bag.get("episodes", [])]
        for bag, episode in entries:
            told[episode["episode_index"]] = episode
            if bag["status"] != "converted":
                faults.add(path, f"bag {bag['bag']} is {bag['status']} and has episode {episode['episode_index']}")
    except (UserError, KeyError, TypeError, AttributeError) as error:
        faults.add(path, f"does not tell which bag became which episode: {type(error).__name__}: {error}")
        return {}, False
    numbers = [episode["episode_index"] for _, episode in entries]
    merged = "merged" in record
    every = [number for number in range(len(lengths)) if number in told or not merged]
    faults.expect(path, "episodes", numbers, every)
    if not merged:
        action = declared.features.get(ACTION)
        if action is not None:
            faults.expect(path, "action (info.json: features.action.info)", record.get("action"), action.info)
        cameras = [key.removeprefix(IMAGES) for key in declared.of("image", "video")]
        faults.expect(path, "cameras", record.get("cameras"), cameras)
    return told, merged


def _check_sync(path: Path, table: pa.Table, length: int, fps: float, faults: Findings) -> None:
    """Ticks lie on the grid; every stream's samples are used in order."""
    faults.expect(path, "rows (frames of the episode)", table.num_rows, length)
    streams = [name.removesuffix(".stamp_ns") for name in table.column_names if name.endswith(".stamp_ns")]
    expected = ["frame_index", "tick_ns"]
    expected += [name for stream in streams for name in (f"{stream}.stamp_ns", f"{stream}.message")]
    faults.expect(path, "columns", sorted(table.column_names), sorted(expected))
    if sorted(table.column_names) != sorted(expected) or any(column.null_count for column in table.columns):
        return
    frames, ticks_ns = (table.column(name).to_numpy() for name in ("frame_index", "tick_ns"))
    right = np.arange(len(frames))
    faults.rows(path, frames != right, lambda row: f"frame_index: found {frames[row]}, expected {right[row]}")
    # An episode starts anywhere on its bag's grid, whose ticks are rounded down one by one: 1 ns either way.
    grid_ns = ticks_ns[:1] + (right * 1_000_000_000 / fps).astype(np.int64)
    faults.rows(
        path, np.abs(ticks_ns - grid_ns) > 1, lambda row: f"tick_ns: found {ticks_ns[row]}, expected {grid_ns[row]}"
    )
    for stream in streams:
        for name in (f"{stream}.stamp_ns", f"{stream}.message"):
            values = table.column(name).to_numpy()
            back = np.concatenate([[False], np.diff(values) < 0])
            faults.rows(path, back, _going_back(name, values))


def _going_back(name: str, values: npt.NDArray[Any]) -> Any:
    return lambda row: f"{name}: found {values[row]} after {values[row - 1]}, expected no earlier one"


def _check_told(record: Path, number: int, told: dict[str, Any], table: pa.Table, faults: Findings) -> None:
    """What conversion.json counts for an episode is what meta/sync shows."""
    faults.expect(record, f"episode {number}: frames", told.get("frames"), table.num_rows)
    if table.num_rows and "tick_ns" in table.column_names and "start_ns" in told:
        faults.expect(record, f"episode {number}: start_ns", told["start_ns"], table.column("tick_ns")[0].as_py())
    for stream, held in told.get("held", {}).items():
        name = f"{stream}.message"
        if name in table.column_names:
            shown = len(np.unique(table.column(name).to_numpy()))
            faults.expect(record, f"episode {number}: held.{stream}", held, table.num_rows - shown)
