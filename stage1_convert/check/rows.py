"""The columns that count frames and episodes, the files that hold the rows, and actions that follow from states."""

import math
from collections.abc import Iterator

import numpy as np

from common.lerobot.metadata import ACTION, STATE
from common.lerobot.training import VECTORS
from stage1_convert.check.findings import Finding, Opened

TOLERANCE_S = 1e-4  # LeRobot's, of timestamps


def check_index_columns(opened: Opened) -> Iterator[Finding]:
    """Recompute episode_index, frame_index and timestamp from the episodes' bounds."""
    episodes = opened.dataset.episodes
    lengths = [episode.length for episode in episodes]
    frames = np.concatenate([np.arange(length) for length in lengths])
    numbers = np.repeat([episode.number for episode in episodes], lengths)
    expected = {"episode_index": numbers, "frame_index": frames, "timestamp": frames / opened.dataset.fps}
    for key, right in expected.items():
        found = opened.columns.get(key)
        if found is not None and found.shape == right.shape:
            off = np.flatnonzero(np.abs(found.astype(np.float64) - right) > TOLERANCE_S)
            more = f" (and {len(off) - 1} more rows)" if len(off) > 1 else ""
            for row in off[:1]:
                text = f"{key}: found {found[row]:.9g}, expected {right[row]:.9g}{more}"
                yield Finding("fault", f"{opened.place(row)}: {text}")


def check_finite(opened: Opened) -> Iterator[Finding]:
    """Numbers must be finite; those that a training reads, it has looked at itself."""
    for key, values in opened.columns.items():
        if key not in VECTORS and np.issubdtype(values.dtype, np.floating):
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            for row in np.flatnonzero(bad)[:1]:
                found = f"found {values[row].tolist()}, expected finite numbers"
                yield Finding("fault", f"{opened.place(row)}: {key}: {found}")


def check_data_files(opened: Opened) -> Iterator[Finding]:
    """Each episode's rows must be in the data file that it names; LeRobot's editing tools look for them there."""
    bounds = {path: (start, stop) for path, start, stop in opened.files}
    for episode in opened.dataset.episodes:
        path = opened.dataset.rows_path(episode)
        start, stop = bounds.get(path, (0, 0))
        if not start <= episode.start < episode.stop <= stop:
            found = f"names {path.relative_to(opened.root)}, which " + (
                f"holds {start} to {stop}" if stop else "is missing"
            )
            yield Finding(
                "fault",
                f"meta/episodes: row {episode.number}: rows {episode.start} to {episode.stop}: data/file_index {found}",
            )


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
        yield Finding("fault", f"{opened.place(row)}: action: {what}")
