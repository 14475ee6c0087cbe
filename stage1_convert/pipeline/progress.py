"""A board in; a bar on a terminal, or a line about every ten seconds in a log, out, while the bags are converted."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm

from common.cli.command import LOG_PERIOD_S
from stage1_convert.pipeline.board import Progress

BAR_PERIOD_S = 0.5

log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown_progress(board: Progress, bags: int) -> Iterator[None]:
    """Show frames per second and the time left while the block runs."""
    done = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(board, bags, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bar(board: Progress, bags: int, done: threading.Event) -> None:
    with tqdm(desc="convert", unit=" frames", dynamic_ncols=True) as bar:
        while not done.wait(BAR_PERIOD_S):
            planned, frames, total = board.progress()
            bar.total = max(round(total), frames)
            bar.set_postfix_str(f"{planned} of {bags} bags begun", refresh=False)
            bar.update(frames - bar.n)


def _lines(board: Progress, bags: int, done: threading.Event) -> None:
    start = time.monotonic()
    while not done.wait(LOG_PERIOD_S):
        planned, frames, total = board.progress()
        rate = frames / (time.monotonic() - start)
        left = f", about {max(total - frames, 0) / rate:.0f} s left" if rate else ""
        log.info("convert: %d of %d bags begun, %d frames, %.0f frames/s%s", planned, bags, frames, rate, left)
