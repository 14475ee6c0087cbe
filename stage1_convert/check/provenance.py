"""Check our own records of a conversion, meta/conversion.json and meta/sync, against the dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError
from common.lerobot.metadata import ACTION, IMAGES, data_file
from common.storage.files import read_json
from stage1_convert.check.findings import Findings
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes
from stage1_convert.dataset.record import FORMAT, RECORD_PATH, SYNC_PATH, ConversionRecord, EpisodeEntry, read_record


def check_provenance(root: Path, declared: Declared, episodes: Episodes, findings: Findings) -> None:
    """Check conversion.json and the file in meta/sync of every episode; datasets of other tools have neither."""
    path, folder = root / RECORD_PATH, root / "meta" / "sync"
    if not path.exists() and not folder.exists():
        return
    record = _read_record(root, findings)
    lengths = episodes.columns["length"]
    entries = _check_record(path, record, declared, lengths, findings) if record else {}
    files = [data_file(number) for number in range(len(lengths))]
    expected = {root / SYNC_PATH.format(chunk_index=chunk, file_index=file): i for i, (chunk, file) in enumerate(files)}
    for stray in sorted(path for path in folder.rglob("*") if path.is_file() and path not in expected):
        findings.add(stray, "belongs to no episode")
    for sync, number in expected.items():
        table = findings.read(sync)
        if table is not None:
            _check_sync(sync, table, lengths[number], declared.fps, findings)
            if number in entries:
                _check_entry(path, number, entries[number], table, findings)


def _read_record(root: Path, findings: Findings) -> ConversionRecord | None:
    path = root / RECORD_PATH
    findings.files.add(path)
    try:
        tree = read_json(path)
    except UserError as error:
        findings.add(path, f"does not record which bag became which episode: {error}")
        return None
    version = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(version, int) and version < FORMAT:  # of an earlier release: nothing is known to be wrong with it
        return read_record(root, earlier=True)
    return None if findings.validate(ConversionRecord, path, tree) else ConversionRecord.model_validate(tree)


def _check_record(
    path: Path, record: ConversionRecord, declared: Declared, lengths: list[int], findings: Findings
) -> dict[int, EpisodeEntry]:
    """Compare conversion.json with info.json; returns its entries by the number of the episode."""
    entries: dict[int, EpisodeEntry] = {}
    for bag in record.bags:
        for entry in bag.episodes:
            entries[entry.episode_index] = entry
            if not bag.is_converted:
                findings.add(path, f"bag {bag.bag} is {bag.status} and has episode {entry.episode_index}")
    numbers = [entry.episode_index for bag in record.bags for entry in bag.episodes]
    findings.expect(path, "episodes", numbers, list(range(len(lengths))))
    action = declared.features.get(ACTION)
    if action is not None:
        findings.expect(path, "action (info.json: features.action.info)", record.action, action.info)
    cameras = [key.removeprefix(IMAGES) for key in declared.of_dtype("image", "video")]
    findings.expect(path, "cameras", record.cameras, cameras)
    return entries


def _check_sync(path: Path, table: pa.Table, length: int, fps: float, findings: Findings) -> None:
    """Ticks must lie on the grid, and the samples of every stream must be used in order."""
    findings.expect(path, "rows (frames of the episode)", table.num_rows, length)
    streams = [name.removesuffix(".stamp_ns") for name in table.column_names if name.endswith(".stamp_ns")]
    samples = [name for stream in streams for name in (f"{stream}.stamp_ns", f"{stream}.message")]
    expected = sorted(["frame_index", "tick_ns", *samples])
    findings.expect(path, "columns", sorted(table.column_names), expected)
    if sorted(table.column_names) != expected or any(column.null_count for column in table.columns):
        return
    frames, ticks_ns = (table.column(name).to_numpy() for name in ("frame_index", "tick_ns"))
    rows = np.arange(len(frames))
    findings.rows(path, frames != rows, lambda row: f"frame_index: found {frames[row]}, expected {rows[row]}")
    # An episode starts anywhere on the grid of its bag, whose ticks are rounded down one by one: 1 ns either way.
    grid_ns = ticks_ns[:1] + (rows * 1_000_000_000 / fps).astype(np.int64)
    findings.rows(
        path, np.abs(ticks_ns - grid_ns) > 1, lambda row: f"tick_ns: found {ticks_ns[row]}, expected {grid_ns[row]}"
    )
    for name in samples:
        values = table.column(name).to_numpy()
        decreases = np.concatenate([[False], np.diff(values) < 0])
        findings.rows(path, decreases, _describe_decrease(name, values))


def _describe_decrease(name: str, values: npt.NDArray[Any]) -> Callable[[int], str]:
    return lambda row: f"{name}: found {values[row]} after {values[row - 1]}, expected no earlier one"


def _check_entry(path: Path, number: int, entry: EpisodeEntry, table: pa.Table, findings: Findings) -> None:
    """Compare the counts of conversion.json for an episode with meta/sync."""
    findings.expect(path, f"episode {number}: frames", entry.frames, table.num_rows)
    if table.num_rows and "tick_ns" in table.column_names:
        findings.expect(path, f"episode {number}: start_ns", entry.start_ns, table.column("tick_ns")[0].as_py())
    for stream, repeated in entry.repeated.items():
        name = f"{stream}.message"
        if name in table.column_names:
            shown = len(np.unique(table.column(name).to_numpy()))
            findings.expect(path, f"episode {number}: repeated.{stream}", repeated, table.num_rows - shown)
