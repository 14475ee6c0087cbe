"""Progress of a conversion: a bar on a terminal, a line about every ten seconds in a log."""

import contextlib
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

BAR_PERIOD_S = 0.5
UNKNOWN = -1

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
            count = len(sizes_bytes)
            path.write_bytes(np.array([[UNKNOWN] * count, [0] * count, sizes_bytes], np.int64).tobytes())
        has_bags = path.stat().st_size > 0  # an empty file cannot be mapped
        self._cells = np.memmap(path, np.int64, "r+").reshape(3, -1) if has_bags else np.zeros((3, 0), np.int64)

    def plan(self, bag: int, frames: int) -> None:
        """Note how many frames a bag gives; none when it is refused."""
        self._cells[0, bag] = frames

    def add(self, bag: int, frames: int) -> None:
        """Note that so many more frames of a bag are written."""
        self._cells[1, bag] += frames

    def totals(self) -> Totals:
        """Return the sums over all bags."""
        frames, written, size = np.array(self._cells)
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
