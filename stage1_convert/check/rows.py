"""The columns that count frames and episodes, and whether the rows of an episode are in the file that it names."""

from collections.abc import Iterator

import numpy as np

from common.lerobot.training import VECTORS
from stage1_convert.check.findings import Finding, Opened

TOLERANCE_S = 1e-4  # LeRobot's, of timestamps


def check_index_columns(opened: Opened) -> Iterator[Finding]:
    """Recompute episode_index, frame_index and timestamp from the episodes' bounds."""
    episodes = opened.dataset.episodes
    lengths = [episode.length for episode in episodes]
    frames = np.concatenate([np.arange(length) for length in lengths])
    yield from opened.compare("episode_index", np.repeat([episode.number for episode in episodes], lengths))
    yield from opened.compare("frame_index", frames)
    yield from opened.compare("timestamp", frames / opened.dataset.fps, TOLERANCE_S)


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
