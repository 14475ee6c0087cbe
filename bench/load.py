"""Batches per CPU second, against a bare np.take of the same images by as many threads, and the wait for them.

`python -m bench.load [--frames 2000] [--size 480 640] [--batch 8]`. For comparison: LeRobotDataset 0.6.1's best single
process gave 87 samples/s at 480x640 on another machine (video, torchcodec).
"""

import argparse
import logging
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from bench.bars import cpu_seconds, print_bar
from common.cli.command import Parser, run
from common.lerobot.frames import MappedFrames, Rows
from common.lerobot.metadata import Episode
from stage2_train.batches import Batch, BatchOrder, ChunkDataset, FrameStore, load_batches

CHUNK, EPISODE_FRAMES = 100, 400
STEPS, WORKERS = 60, 2
STEP_S = 0.05  # duration of a step behind which batches are loaded


class SyntheticStore(FrameStore):
    """A memory map of random images and columns of zeros, without a dataset."""

    def __init__(self, folder: Path, n_frames: int, size: Sequence[int]) -> None:
        path, shape = folder / "camera.u8", (size[0], size[1], 3)
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8).tobytes()
        with path.open("wb") as file:
            for _ in range(n_frames):
                file.write(image)
        self.mapped = MappedFrames(path, n_frames, shape)
        self.frames = [self.mapped]
        self.state_NS, self.action_NA = (np.zeros((n_frames, 6), np.float32) for _ in range(2))
        self.environment_NE = None


def split_into_episodes(n_frames: int) -> list[Episode]:
    """Return episodes of EPISODE_FRAMES that cover the frames."""
    starts = range(0, n_frames, EPISODE_FRAMES)
    return [Episode(i, s, min(s + EPISODE_FRAMES, n_frames), (0, i), {}) for i, s in enumerate(starts)]


def measure(store: SyntheticStore, flags: argparse.Namespace) -> tuple[float, float, float]:
    """Take the same images with np.take and with the loader in turn, then load behind steps that only sleep.

    Returns the CPU seconds of both sides, and the share of the time spent waiting.
    """
    order = BatchOrder(1000, flags.batch, 0, 1, 32)
    samples = ChunkDataset(store, split_into_episodes(flags.frames), CHUNK)
    rows = [samples.batch(order, step).rows for step in range(STEPS)]
    # As many buffers as the loader has: a batch must outlive the gathering of the next one.
    buffers = [np.empty((flags.batch, *flags.size, 3), np.uint8) for _ in range(WORKERS + 1)]
    # One loader for all rounds, as in a training.
    loader = load_batches(samples, order, 0, 10**9, WORKERS)
    next(loader)
    with ThreadPoolExecutor(WORKERS) as pool:  # threads that copy at once slow each other, on either side
        take_s, loader_s = cpu_seconds(
            [
                lambda: list(pool.map(partial(_take, store), rows, cycle(buffers))),
                lambda: deque(islice(loader, STEPS), maxlen=0),
            ],
            5,
        )
    wait = _wait_share(loader)
    loader.close()
    return take_s, loader_s, wait


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the bars."""
    parser = Parser("python -m bench.load", description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640])
    parser.add_argument("--batch", type=int, default=8)
    flags = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        store = SyntheticStore(Path(name), flags.frames, flags.size)
        take_s, loader_s, wait = measure(store, flags)
    map_bytes, n_samples = flags.frames * int(np.prod(flags.size)) * 3, flags.batch * STEPS
    ratio = take_s / loader_s
    rates = f"np.take {n_samples / take_s:.0f} samples/s, loader {n_samples / loader_s:.0f} samples/s"
    print(f"{rates}, {map_bytes / 1e9:.2f} GB map")
    print_bar("load", "loader / np.take >= 0.7", ratio, ratio >= 0.7)
    print_bar("load", f"data wait / step of {STEP_S:g} s <= 0.02", wait, wait <= 0.02)
    return 0


def _take(store: SyntheticStore, rows: Rows, buffer: np.ndarray) -> None:
    np.take(store.mapped.map, rows, axis=0, out=buffer, mode="clip")


def _wait_share(loader: Iterator[Batch]) -> float:
    """Return the share of the time spent waiting for data when a step takes STEP_S."""
    waited_s, started = 0.0, time.perf_counter()
    for _ in range(STEPS):
        time.sleep(STEP_S)
        asked = time.perf_counter()
        next(loader)
        waited_s += time.perf_counter() - asked
    return waited_s / (time.perf_counter() - started)


if __name__ == "__main__":
    run(main)
