"""What batches cost, in time of computing, against a bare np.take of the same images by as many threads, and what memory
a process takes.

`python -m bench.load [--frames 2000] [--size 480 640] [--batch 8]`. For orientation: LeRobotDataset 0.6.1's best single
process gave 87 samples/s at 480x640 on another machine (video, torchcodec).
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from bench.bars import cpu_seconds, print_bar
from common.cli.command import Parser, run
from common.lerobot.dataset import Dataset, Episode
from common.lerobot.frame_cache import MappedFrames, Rows, open_frames
from stage2_train.batches import Batch, BatchOrder, Recordings, Samples, batches

CHUNK, EPISODE_FRAMES = 100, 400


class Synthetic(Recordings):
    """A map of so many images and the columns beside it, without the dataset that they would come from."""

    def __init__(self, folder: Path, n_frames: int, size: Sequence[int]) -> None:
        path, shape = folder / "camera.u8", (size[0], size[1], 3)
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8).tobytes()
        with path.open("wb") as file:
            for _ in range(n_frames):
                file.write(image)
        self.frames = [MappedFrames(path, n_frames, shape)]
        self.state_NS, self.action_NA = (np.zeros((n_frames, 6), np.float32) for _ in range(2))
        self.environment_NE = None


def episodes(n_frames: int) -> list[Episode]:
    """Cut the frames into episodes."""
    starts = range(0, n_frames, EPISODE_FRAMES)
    return [Episode(i, s, min(s + EPISODE_FRAMES, n_frames), (0, i), {}) for i, s in enumerate(starts)]


def anonymous_bytes() -> int:
    """Return this process's memory that no file backs: RssAnon, not the pages of the map that the kernel may drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def warm_start_s(folder: Path) -> float:
    """Return how long opening a dataset of 100 episodes takes whose images are in the cache already, imports aside."""
    from tests.stage2_train.tiny import write_dataset

    root = write_dataset(folder / "dataset", lengths=[100] * 100, cameras={"front": (32, 32)})
    for _ in range(2):
        started = time.perf_counter()
        dataset = Dataset.open(root)
        Recordings(dataset, open_frames(dataset, folder / "cache"), folder / "cache")
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Time both sides in turn and print the bars."""
    parser = Parser("python -m bench.load", description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step-s", type=float, default=0.05, help="a step that the loader hides behind (0.05)")
    flags = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp())
    try:
        recordings = Synthetic(folder, flags.frames, flags.size)
        samples = Samples(recordings, episodes(flags.frames), CHUNK)
        plan = BatchOrder(1000, flags.batch, 0, 1, 32)
        orders = [samples.batch(plan, step).rows for step in range(flags.steps)]
        # As many places in turn as the loader has: a batch must outlive the gathering of the next one.
        places = [np.empty((flags.batch, *flags.size, 3), np.uint8) for _ in range(flags.workers + 1)]
        feed = batches(samples, plan, 0, 10**9, flags.workers, pin=False)  # one for all rounds, as a training has
        next(feed)
        before = anonymous_bytes()
        with ThreadPoolExecutor(flags.workers) as pool:  # threads that copy at once slow each other, on either side
            bare_s, loader_s = cpu_seconds(
                [
                    lambda: list(pool.map(partial(_take, recordings), orders, cycle(places))),
                    lambda: list(map(_drop, islice(feed, flags.steps))),
                ],
                5,
            )
        grown = anonymous_bytes() - before
        waits = _waits(feed, flags.steps, flags.step_s)
        feed.close()
        start_s = warm_start_s(folder)
    finally:
        shutil.rmtree(folder)
    n = flags.batch * flags.steps
    map_bytes = flags.frames * int(np.prod(flags.size)) * 3
    print(f"np.take {n / bare_s:.0f} samples/s, loader {n / loader_s:.0f} samples/s, {map_bytes / 1e9:.2f} GB map")
    print_bar("load", "loader / np.take >= 0.7", bare_s / loader_s, bare_s / loader_s >= 0.7)
    print_bar("load", f"data wait / step of {flags.step_s:g} s <= 0.02", waits, waits <= 0.02)
    print_bar("load", "warm start in seconds < 3", start_s, start_s < 3)
    print_bar("load", "anonymous memory grown / size of the map <= 0.05", grown / map_bytes, grown / map_bytes <= 0.05)
    return 0


def _take(recordings: Synthetic, rows: Rows, place: np.ndarray) -> None:
    frames = recordings.frames[0]
    assert isinstance(frames, MappedFrames)
    np.take(frames.map, rows, axis=0, out=place, mode="clip")


def _drop(batch: Batch) -> None:
    """Have a batch and let it go."""


def _waits(feed: Iterator[Batch], steps: int, step_s: float) -> float:
    """Return the share of the time that is spent waiting for data when a step takes so long."""
    waited, started = 0.0, time.perf_counter()
    for _ in range(steps):
        time.sleep(step_s)
        asked = time.perf_counter()
        next(feed)
        waited += time.perf_counter() - asked
    return waited / (time.perf_counter() - started)


if __name__ == "__main__":
    run(main)
