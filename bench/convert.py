"""Measures stage 1 on synthetic bags: its speed against bare JPEG coding, memory, workers.

Bare coding keeps freed memory from image to image, so that no bar is won by a slow other side.

`python -m bench.convert` runs all bars; --only, --frames, --rounds, --minutes and --bags make it shorter or longer.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from bench import bags
from bench.bars import fresh_cpu_seconds, print_bar, seconds
from common.lerobot.images import decode_image
from common.storage.allocator import keep_freed_memory
from common.storage.files import sha256
from stage1_convert.__main__ import main as convert_main
from stage1_convert.dataset.stats import sample_frames

RESIZED = (240, 320)
MAX_MB = 400
SHORT_EPISODES = 300, 90  # frames; of each, LeRobot measures at least 100
KEPT_BYTES = 32 << 20
SAMPLE_S = 0.05


@dataclass(frozen=True)
class Bench:
    """The bars, each a method; bags are written below `scratch`."""

    scratch: Path
    frames: int
    rounds: int
    minutes: Sequence[float]
    bags: int

    def verified(self) -> None:
        """JPEG files stored unchanged, every image verified: in one episode, and in short ones."""
        bag = self._bag("jpeg", self.frames)
        lengths = [f"data.max_episode_s={frames / bags.CAMERA_HZ}" for frames in SHORT_EPISODES]
        sides = [self._convert(bag), *(self._convert(bag, "--override", length) for length in lengths)]
        ours, *short, bare = self._race_cpu(*sides, partial(decode, bags.jpegs(), self.frames))
        self._print("verified passthrough / bare decode >= 1", ours, bare, 1.0)
        for frames, episodes_s in zip(SHORT_EPISODES, short, strict=True):
            print(f"  episodes of {frames} frames / bare decode: {bare / episodes_s:.2f}")

    def trusted(self) -> None:
        """JPEG files stored unchanged, with only header and end marker read, and a sample decoded for the statistics."""
        bag, sample = self._bag("jpeg", self.frames), len(sample_frames(self.frames))
        least = partial(hashed, bag, partial(decode, bags.jpegs(), sample))
        convert, bare = self._convert(bag, "--trust-images"), partial(decode, bags.jpegs(), self.frames)
        ours, least_s, bare_s = self._race_cpu(convert, least, bare)
        self._print("trusted passthrough / bare decode of the sample and sha256 >= 0.45", ours, least_s, 0.45)
        print(f"  of bare decode of all: {bare_s / ours:.2f}, and {bare_s / least_s:.2f} if nothing but that were done")

    def resized(self) -> None:
        """JPEG to a smaller JPEG."""
        resize = f"conventions.image_resize=[{RESIZED[0]}, {RESIZED[1]}]"
        convert = self._convert(self._bag("jpeg", self.frames), "--override", resize)
        ours, bare = self._race_cpu(convert, partial(resize_jpegs, bags.jpegs(), self.frames))
        self._print("JPEG to smaller JPEG / bare decode, resize, encode >= 0.75", ours, bare, 0.75)

    def raw(self) -> None:
        """Raw images to JPEG."""
        frames = self.frames // 2
        bag = self._bag("raw", frames, raw=True)
        bare = partial(encode, bags.images(), frames)
        ours, least_s, bare_s = self._race_cpu(self._convert(bag), partial(hashed, bag, bare), bare)
        self._print("raw to JPEG / bare encode and sha256 >= 0.6", ours, least_s, 0.6, frames)
        print(f"  of bare encode: {bare_s / ours:.2f}, and {bare_s / least_s:.2f} if nothing but that were done")

    def memory(self) -> None:
        """Peak memory of all processes of the command together, over bags of several lengths."""
        for minutes in self.minutes:
            bag = self._bag(f"{minutes:g}min", round(minutes * 60 * bags.CAMERA_HZ))
            peak_mb = self._peak_mb(bag)
            shutil.rmtree(bag)
            print(f"  {minutes:g} min of bag: {peak_mb:.0f} MB at the peak")
            bar = f"peak memory, {minutes:g} min bag / {MAX_MB} MB < 1"
            print_bar("convert", bar, peak_mb / MAX_MB, peak_mb < MAX_MB)

    def workers(self) -> None:
        """Two processes against one, over several bags, and how much two gain where nothing but decoding is done."""
        for number in range(self.bags):
            self._bag(f"many/bag{number}", self.frames)
        folder, decoding = self.scratch / "many", partial(decode, bags.jpegs())
        with ProcessPoolExecutor(1) as pool_of_one, ProcessPoolExecutor(2) as pool_of_two:
            bare = [partial(in_pool, pool, decoding, [self.frames] * 2) for pool in (pool_of_one, pool_of_two)]
            converted = [self._convert(folder), self._convert(folder, workers=2)]
            one, two, bare_one, bare_two = seconds([*converted, *bare], self.rounds)
        frames, gain = self.bags * self.frames, bare_one / bare_two
        print(
            f"  two workers and one: {frames / two:,.0f} and {frames / one:,.0f} frames/s, {one / two:.2f} times as many"
        )
        bar, ratio = "what two workers gain / what two processes of bare decoding gain >= 0.93", one / two / gain
        print(f"  two processes of bare decoding: {gain:.2f} times as many")
        print_bar("convert", bar, ratio, ratio >= 0.93)

    def _bag(self, name: str, frames: int, raw: bool = False) -> Path:
        """Return the folder of a bag, which is written unless another bar has done so."""
        path = self.scratch / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            bags.write_bag(path, frames, raw)
        return path

    def _race_cpu(self, *sides: Callable[[], object]) -> list[float]:
        """Time each side in new processes, in which a short conversion has done the imports before."""
        return fresh_cpu_seconds(sides, self.rounds, self._convert(self._bag("warm", 20)))

    def _print(self, bar: str, ours: float, other: float, limit: float, frames: int | None = None) -> None:
        frames = frames or self.frames
        print(f"  {bar.split(' >=', maxsplit=1)[0]}: {frames / ours:,.0f} and {frames / other:,.0f} frames/s")
        print_bar("convert", bar, other / ours, other / ours >= limit)

    def _convert(self, src: Path, *flags: str, workers: int = 1) -> Callable[[], object]:
        return partial(in_new_folder, self.scratch, partial(convert, src, workers, flags))

    def _peak_mb(self, src: Path) -> float:
        """Run the command and return the largest memory of it and its workers together; shared memory counts once."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            command = [sys.executable, "-m", "stage1_convert", *_arguments(src, Path(folder) / "out", 1, ())]
            env = os.environ | {"XDG_CACHE_HOME": folder}
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=env)
            peak_kb = 0
            while process.returncode is None:
                peak_kb = max(peak_kb, session_kb(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLE_S)
            assert process.returncode == 0, f"{' '.join(command)} ended with exit code {process.returncode}"
        return peak_kb / 1024


def session_kb(session: int) -> int:
    """Return the proportional set size (Pss), in KiB, of all processes of a session."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def in_new_folder(scratch: Path, work: Callable[[Path], object]) -> None:
    """Call `work` with a path that does not exist, and no cache: no results of an earlier round, no remembered sha256."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        work(Path(folder) / "out")


def convert(src: Path, workers: int, flags: Sequence[str], out: Path) -> None:
    """Convert as the command does."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert_main(_arguments(src, out, workers, flags))


def decode(jpegs: Sequence[bytes], frames: int) -> None:
    """Decode JPEG files and do nothing else."""
    _prepare_bare()
    for number in range(frames):
        decode_image(jpegs[number % len(jpegs)])


def in_pool(pool: ProcessPoolExecutor, work: Callable[[int], None], items: Sequence[int]) -> None:
    """Do some work on every item in the processes of a pool."""
    list(pool.map(work, items))


def resize_jpegs(jpegs: Sequence[bytes], frames: int) -> None:
    """Decode, resize and encode JPEG files and do nothing else."""
    _prepare_bare()
    height, width = RESIZED
    for number in range(frames):
        image = decode_image(jpegs[number % len(jpegs)])
        smaller = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 95])


def encode(images: Sequence[bags.Image], frames: int) -> None:
    """Encode images and do nothing else."""
    _prepare_bare()
    for number in range(frames):
        cv2.imencode(".jpg", images[number % len(images)], [cv2.IMWRITE_JPEG_QUALITY, 95])


def hashed(bag: Path, work: Callable[[], object]) -> None:
    """Do some work, and compute the sha256 of the files of a bag, by which a dataset knows it again."""
    work()
    for file in bag.iterdir():
        sha256(file)


def _prepare_bare() -> None:
    """Let bare coding use one thread, and the memory of one image again for the next."""
    cv2.setNumThreads(1)
    keep_freed_memory(KEPT_BYTES)


def _arguments(src: Path, out: Path, workers: int, flags: Sequence[str]) -> list[str]:
    return ["--src", str(src), "--out", str(out), "--workers", str(workers), *flags]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the selected bars; returns 0 whether they hold or not, the printed lines say which do."""
    methods = (Bench.verified, Bench.trusted, Bench.resized, Bench.raw, Bench.workers, Bench.memory)
    bars = {method.__name__: method for method in methods}
    parser = argparse.ArgumentParser(prog="python -m bench.convert", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=bars, default=list(bars), help="bars (default: all)")
    parser.add_argument("--frames", type=int, default=3600, help="images of a bag, 480x640 (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both sides take turns (%(default)s)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 20], help="bags of the memory bar (2 20)")
    parser.add_argument("--bags", type=int, default=6, help="bags of the workers bar (%(default)s)")
    scratch = Path(tempfile.gettempdir())
    parser.add_argument("--scratch", type=Path, default=scratch, help="folder with 10 GB free (%(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="bench-convert-") as folder:
        bench = Bench(Path(folder), args.frames, args.rounds, args.minutes, args.bags)
        for name in args.only:
            bars[name](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
