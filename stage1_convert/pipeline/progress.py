"""Progress of a conversion: a bar on a terminal, a line about every ten seconds in a log; and where each bag's rows will be."""

import contextlib
import hashlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.cli.command import LOG_PERIOD_S
from stage1_convert.dataset.episode_file import UNPLACED, EpisodeOffset

BAR_PERIOD_S = 0.5
POLL_S = 0.01
UNKNOWN = -1
FRAMES, WRITTEN, BYTES, EPISODES, TASK = range(5)

log = logging.getLogger(__name__)


class Totals(NamedTuple):
    """Bags that were begun, frames written, and frames in all, if the bags still to come are like those begun."""

    begun: int
    written: int
    expected: float


class Progress:
    """Counts the frames of every bag, by its position, in a small file that all worker processes map.

    The process that creates it gives the bags' sizes.
    """

    def __init__(self, path: Path, sizes_bytes: Sequence[int] | None = None) -> None:
        if sizes_bytes is not None:
            cells = np.zeros((5, len(sizes_bytes)), np.int64)
            cells[FRAMES], cells[BYTES] = UNKNOWN, sizes_bytes
            path.write_bytes(cells.tobytes())
        has_bags = path.stat().st_size > 0  # an empty file cannot be mapped
        self._cells = np.memmap(path, np.int64, "r+").reshape(5, -1) if has_bags else np.zeros((5, 0), np.int64)

    def plan(self, bag: int, frames: int, episodes: int = 0, task: str = "") -> None:
        """Note how many frames and episodes a bag gives, none when it is refused, and their task."""
        digest = hashlib.sha256(task.encode()).digest()
        self._cells[EPISODES, bag], self._cells[TASK, bag] = episodes, int.from_bytes(digest[:8], "little", signed=True)
        self._cells[FRAMES, bag] = frames

    def offset(self, bag: int, wait_s: float) -> EpisodeOffset:
        """Return the offset of a planned bag's first episode, if all bags before it give what they are planned to give.

        Waits so long until all of these are planned; UNPLACED when they are not. A wrong offset costs that the rows are
        written again.
        """
        stop_s = time.monotonic() + wait_s
        while (self._cells[FRAMES, :bag] == UNKNOWN).any():
            if time.monotonic() > stop_s:
                return UNPLACED
            time.sleep(POLL_S)
        before = self._cells[:, :bag][:, self._cells[FRAMES, :bag] > 0]
        task = int(self._cells[TASK, bag])
        tasks = list(dict.fromkeys([*before[TASK].tolist(), task]))
        return EpisodeOffset(int(before[EPISODES].sum()), int(before[FRAMES].sum()), tasks.index(task))

    def add(self, bag: int, frames: int) -> None:
        """Note that so many more frames of a bag are written."""
        self._cells[WRITTEN, bag] += frames

    def totals(self) -> Totals:
        """Return the sums over all bags."""
        frames, written, size = np.array(self._cells[[FRAMES, WRITTEN, BYTES]])
        begun = frames != UNKNOWN
        planned, planned_bytes = int(frames[begun].sum()), int(size[begun].sum())
        expected = planned * int(size.sum()) / planned_bytes if planned_bytes else 0.0
        return Totals(int(begun.sum()), int(written.sum()), expected)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show frames per second and the time left while the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._draw if sys.stderr.isatty() else self._log, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _draw(self, done: threading.Event) -> None:
        with tqdm(desc="convert", unit=" frames", dynamic_ncols=True) as bar:
            while not done.wait(BAR_PERIOD_S):
                begun, written, expected = self.totals()
                bar.total = max(round(expected), written)
                bar.set_postfix_str(f"{begun} of {self._cells.shape[1]} bags begun", refresh=False)
                bar.update(written - bar.n)

    def _log(self, done: threading.Event) -> None:
        start = time.monotonic()
        while not done.wait(LOG_PERIOD_S):
            begun, written, expected = self.totals()
            rate = written / (time.monotonic() - start)
            left = f", about {max(expected - written, 0) / rate:.0f} s left" if rate else ""
            bags = self._cells.shape[1]
            log.info("convert: %d of %d bags begun, %d frames, %.0f frames/s%s", begun, bags, written, rate, left)
