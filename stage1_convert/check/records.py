"""Our own rules, about our own records: meta/conversion.json, meta/sync, and what both imply for the rows.

LeRobot and the training do not read them; datasets of other tools have none.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from common.cli.validation import explain
from common.lerobot.metadata import ACTION, STATE, data_file
from common.storage.files import read_json
from stage1_convert.check.findings import Finding, Opened, expect
from stage1_convert.dataset.record import FORMAT, RECORD_PATH, SYNC_PATH, ConversionRecord, to_current


def check_record(opened: Opened) -> Iterator[Finding]:
    """Which bag became which episode, and whether that agrees with the episodes."""
    path = opened.root / RECORD_PATH
    if not path.is_file():
        if (opened.root / "meta" / "sync").is_dir():
            yield Finding("own rule", f"{RECORD_PATH} is missing: nothing says which bag became which episode")
        return
    tree = to_current(read_json(path))
    version = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(version, int) and version < FORMAT:
        return  # of an earlier release
    try:
        record = ConversionRecord.model_validate(tree)
    except ValidationError as error:
        yield Finding("own rule", f"{RECORD_PATH}: {explain(error, ConversionRecord)}")
        return
    entries = [entry for bag in record.bags for entry in bag.episodes]
    found = [(entry.episode_index, entry.frames) for entry in entries]
    expected = [(episode.number, episode.length) for episode in opened.dataset.episodes]
    yield from expect(RECORD_PATH, "episodes and their frames", found, expected, "own rule")


def check_sync(opened: Opened) -> Iterator[Finding]:
    """Every frame's tick must be on the grid, and the samples of every stream must be used in order."""
    if not (opened.root / "meta" / "sync").is_dir():
        return
    for episode in opened.dataset.episodes:
        chunk, file = data_file(episode.number)
        name = SYNC_PATH.format(chunk_index=chunk, file_index=file)
        try:
            table = pq.read_table(opened.root / name, partitioning=None)
            columns = {key: table.column(key).to_numpy() for key in table.column_names}
        except (pa.ArrowException, OSError) as error:
            missing = "is missing" if not (opened.root / name).exists() else f"cannot be read: {error}"
            yield Finding("own rule", f"{name} {missing}")
            continue
        yield from expect(name, "rows (frames of the episode)", table.num_rows, episode.length, "own rule")
        yield from _check_ticks(name, columns, opened.dataset.fps)


def _check_ticks(name: str, columns: dict[str, npt.NDArray[Any]], fps: int) -> Iterator[Finding]:
    ticks_ns = columns.get("tick_ns", np.zeros(0, np.int64))
    # An episode starts anywhere on the grid of its bag, whose ticks are rounded down one by one: 1 ns either way.
    grid_ns = ticks_ns[:1] + (np.arange(len(ticks_ns)) * 1_000_000_000 / fps).astype(np.int64)
    for row in np.flatnonzero(np.abs(ticks_ns - grid_ns) > 1)[:1]:
        yield Finding("own rule", f"{name}: row {row}: tick_ns: found {ticks_ns[row]}, expected {grid_ns[row]}")
    for key, values in columns.items():
        for row in np.flatnonzero(np.diff(values) < 0)[:1] + 1 if key.endswith((".stamp_ns", ".message")) else ():
            found = f"found {values[row]} after {values[row - 1]}, expected no earlier one"
            yield Finding("own rule", f"{name}: row {row}: {key}: {found}")


def check_timestamps(opened: Opened) -> Iterator[Finding]:
    """We write timestamps that are exactly frame_index / fps, rounded to float32."""
    if (opened.root / RECORD_PATH).is_file() and "frame_index" in opened.columns:
        exact = (opened.columns["frame_index"] / opened.dataset.fps).astype(np.float32)
        yield from opened.compare("timestamp", exact.astype(np.float64), kind="own rule")


def check_actions(opened: Opened) -> Iterator[Finding]:
    """Actions that follow from the states, by the meaning that the action's `info` declares, are recomputed."""
    dataset, meaning = opened.dataset, opened.dataset.action_meaning
    state, action = dataset.features[STATE].names or (), dataset.features[ACTION].names or ()
    joints = [name for name in action if name in state]
    if meaning not in ("delta", "next_position") or not joints or not {STATE, ACTION} <= opened.columns.keys():
        return
    now = opened.columns[STATE][:, [state.index(joint) for joint in joints]].astype(np.float64)
    found = opened.columns[ACTION][:, [action.index(joint) for joint in joints]].astype(np.float64)
    following = np.concatenate([now[1:], now[-1:]])
    for episode in dataset.episodes:
        following[episode.stop - 1] = now[episode.stop - 1]
    expected = following - now if meaning == "delta" else following
    off = np.abs(found - expected)
    off = np.minimum(off, np.abs(off - 2 * math.pi)).max(axis=1)  # a delta takes the shortest arc
    limit = 1e-6 + 4e-7 * np.abs(now).max(initial=0.0)  # both states were rounded to float32
    for row in np.flatnonzero(off > limit)[:1]:
        what = f"found {found[row].tolist()}, expected {expected[row].tolist()} ({meaning})"
        yield Finding("own rule", f"{opened.place(row)}: action: {what}")
