"""How far every bag is, shared between processes through a small file: who converts writes, who waits reads."""

from pathlib import Path

import numpy as np

from stage1_convert.dataset.episode_file import EpisodeOffset

UNKNOWN = -1


class Progress:
    """For each bag by its position: episodes and frames as planned (UNKNOWN before that), frames written, bytes."""

    def __init__(self, path: Path, sizes_bytes: list[int] | None = None) -> None:
        if sizes_bytes is not None:
            fresh = np.zeros((4, len(sizes_bytes)), np.int64)
            fresh[:2], fresh[3] = UNKNOWN, sizes_bytes
            path.write_bytes(fresh.tobytes())
        some = path.stat().st_size > 0  # nothing cannot be mapped
        self._cells = np.memmap(path, np.int64, "r+").reshape(4, -1) if some else np.zeros((4, 0), np.int64)

    def plan(self, bag: int, episodes: int, frames: int) -> None:
        """Note how many episodes and frames a bag gives; none when it is refused."""
        self._cells[:2, bag] = episodes, frames

    def wrote(self, bag: int, frames: int) -> None:
        """Note that so many more frames of a bag are written."""
        self._cells[2, bag] += frames

    def guess(self, bag: int, task_index: int) -> EpisodeOffset:
        """Return the place of a bag's first episode, as far as it is known which bags before it give how many.

        A wrong guess costs the time to renumber the rows, and nothing else.
        """
        before = self._cells[:2, :bag]
        if (before == UNKNOWN).any():
            return EpisodeOffset(0, 0, task_index)
        episodes, frames = before.sum(axis=1)
        return EpisodeOffset(int(episodes), int(frames), task_index)

    def progress(self) -> tuple[int, int, float]:
        """Return the bags that are planned, the frames written, and how many there will be if all bags are alike."""
        episodes, frames, written, size = np.array(self._cells)
        known = episodes != UNKNOWN
        planned, planned_bytes = int(frames[known].sum()), int(size[known].sum())
        total = planned * int(size.sum()) / planned_bytes if planned_bytes else 0.0
        return int(known.sum()), int(written.sum()), total
