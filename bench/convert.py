"""Sizes in, the converter's bars out: how close stage 1 comes to bare JPEG coding, how much memory and how many cores
it takes, and what it gains over a pipeline of PNG files. `python -m bench.convert`
"""

import argparse
import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from bench import bags
from bench.bars import fresh_cpu_seconds, print_bar, seconds
from bench.png_pipeline import convert_with_png_files
from common.lerobot.images import Image, decode_image
from stage1_convert.__main__ import main as convert_main
from stage1_convert.dataset.stats import tally

BENCH = "convert"
RESIZED = (240, 320)
MAX_MB = 500
PNG_FRAMES = 600  # of a pipeline that takes 0.1 s for each
GROUP = 20  # images of a row group
SAMPLE_S = 0.05


class Bench:
    """The bars, each by its name; bags are written below `scratch` and removed when their bar is printed."""

    def __init__(self, scratch: Path, frames: int, rounds: int, minutes: Sequence[float], bags: int) -> None:
        self._scratch, self._frames, self._rounds, self._minutes, self._bags = scratch, frames, rounds, minutes, bags

    def verified(self) -> None:
        """JPEG stored as it is, every image decoded."""
        bag = self._bag("jpeg", self._frames)
        work = partial(fresh, self._scratch, partial(store, bags.jpegs(), see, self._frames))
        ours, bare, whole = self._race_cpu(self._ours(bag), partial(decode, bags.jpegs(), self._frames), work)
        self._print("verified passthrough / bare decode >= 0.8", ours, bare, 0.8)
        self._print("verified passthrough / bare decode, sums, sha256, parquet >= 0.8", ours, whole, 0.8)

    def trusted(self) -> None:
        """JPEG stored as it is, only header and end marker looked at."""
        bag = self._bag("jpeg", self._frames)
        (ours,) = fresh_cpu_seconds(
            [self._ours(bag, "--trust-images")], self._rounds, self._ours(self._bag("warm", 20))
        )
        rate = self._frames / ours
        print(f"  trusted: {rate:,.0f} frames/s")
        print_bar(BENCH, "trusted passthrough / 1,500 frames per s >= 1", rate / 1500, rate >= 1500)

    def resized(self) -> None:
        """JPEG to a smaller JPEG."""
        bag = self._bag("jpeg", self._frames)
        resize = f"conventions.image_resize=[{RESIZED[0]}, {RESIZED[1]}]"
        ours, bare = self._race_cpu(self._ours(bag, "--override", resize), partial(shrink, bags.jpegs(), self._frames))
        self._print("JPEG to smaller JPEG / bare decode, resize, encode >= 0.7", ours, bare, 0.7)

    def raw(self) -> None:
        """Raw images to JPEG."""
        frames = self._frames // 2
        bag = self._bag("raw", frames, raw=True)
        bare = partial(encode, bags.images(), frames)
        work = partial(fresh, self._scratch, partial(store, bags.images(), press, frames))
        trusted = self._ours(bag, "--trust-images")
        ours_s, trusted_s, bare_s, whole_s = self._race_cpu(self._ours(bag), trusted, bare, work)
        self._print("raw to JPEG / bare encode >= 0.7", ours_s, bare_s, 0.7, frames)
        self._print("raw to JPEG, trusted / bare encode >= 0.7", trusted_s, bare_s, 0.7, frames)
        self._print("raw to JPEG / bare encode, sums, sha256, parquet >= 0.7", ours_s, whole_s, 0.7, frames)

    def memory(self) -> None:
        """Peak memory of all processes of the command together, over bags of several lengths."""
        for minutes in self._minutes:
            bag = self._bag(f"{minutes:g}min", round(minutes * 60 * bags.CAMERA_HZ))
            peak_mb = self._peak_mb(bag)
            shutil.rmtree(bag)
            print(f"  {minutes:g} min of bag: {peak_mb:.0f} MB at the peak")
            print_bar(BENCH, f"peak memory, {minutes:g} min bag / {MAX_MB} MB < 1", peak_mb / MAX_MB, peak_mb < MAX_MB)

    def workers(self) -> None:
        """Two processes against one, over several bags."""
        for number in range(self._bags):
            self._bag(f"many/bag{number}", self._frames)
        many = self._scratch / "many"
        one, two = self._race(self._ours(many), self._ours(many, workers=2))
        self._print("two workers / one worker >= 1.8", two, one, 1.8, self._bags * self._frames)

    def png(self) -> None:
        """The pipeline of PNG files against ours, on the same frames."""
        frames = min(self._frames, PNG_FRAMES)
        bag = self._bag("few", frames)
        ours, theirs = self._race(self._ours(bag), partial(fresh, self._scratch, partial(convert_with_png_files, bag)))
        self._print("ours / a pipeline of PNG files >= 20", ours, theirs, 20, frames)

    def _bag(self, name: str, frames: int, raw: bool = False) -> Path:
        """Return the bag's folder; one that another bar has written already is taken again."""
        path = self._scratch / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            bags.write_bag(path, frames, raw)
        return path

    def _race(self, *sides: Callable[[], object]) -> list[float]:
        return seconds(sides, self._rounds)

    def _race_cpu(self, *sides: Callable[[], object]) -> list[float]:
        """Imports and the like are done in a first, short conversion."""
        return fresh_cpu_seconds(sides, self._rounds, self._ours(self._bag("warm", 20)))

    def _print(self, bar: str, ours: float, other: float, limit: float, frames: int | None = None) -> None:
        frames = frames or self._frames
        print(f"  {bar.split(' >=', maxsplit=1)[0]}: {frames / ours:,.0f} and {frames / other:,.0f} frames/s")
        print_bar(BENCH, bar, other / ours, other / ours >= limit)

    def _ours(self, src: Path, *flags: str, workers: int = 1) -> Callable[[], object]:
        return partial(fresh, self._scratch, partial(convert, src, workers, flags))

    def _peak_mb(self, src: Path) -> float:
        """Convert by the command and return the most memory that it and its workers had at one time: what they share
        counts once (Pss)."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            command = [sys.executable, "-m", "stage1_convert", *_command(src, Path(folder) / "out", 1, ())]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
            peak_kb = 0
            while process.returncode is None:
                peak_kb = max(peak_kb, session_kb(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLE_S)
            assert process.returncode == 0, f"{' '.join(command)} left with {process.returncode}"
        return peak_kb / 1024


def session_kb(session: int) -> int:
    """Return the proportional share of memory, in KiB, of all processes of a session."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            of = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            if of == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def fresh(scratch: Path, work: Callable[[Path], object]) -> None:
    """Do work into a folder that did not exist, so that nothing of an earlier round can be taken again."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work(Path(folder) / "out")


def convert(src: Path, workers: int, flags: Sequence[str], out: Path) -> None:
    """Convert as the command does."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert_main(_command(src, out, workers, flags))


def decode(jpegs: Sequence[bytes], frames: int) -> None:
    """Decode images and do nothing else."""
    cv2.setNumThreads(1)
    for number in range(frames):
        decode_image(jpegs[number % len(jpegs)])


def shrink(jpegs: Sequence[bytes], frames: int) -> None:
    """Decode, resize and encode images."""
    cv2.setNumThreads(1)
    height, width = RESIZED
    for number in range(frames):
        image = decode_image(jpegs[number % len(jpegs)])
        smaller = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 95])


def encode(images: Sequence[bags.Image], frames: int) -> None:
    """Encode images."""
    cv2.setNumThreads(1)
    for number in range(frames):
        cv2.imencode(".jpg", images[number % len(images)], [cv2.IMWRITE_JPEG_QUALITY, 95])


def see(jpeg: bytes) -> tuple[Image, bytes]:
    """Return a JPEG's pixels, and what is stored of it: itself."""
    return decode_image(jpeg), jpeg


def press(image: bags.Image) -> tuple[Image, bytes]:
    """Return an image's pixels, and what is stored of it: its JPEG."""
    return image, bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def store(sources: Sequence[Any], make: Callable[[Any], tuple[Image, bytes]], frames: int, out: Path) -> None:
    """Do what no conversion of this kind can leave out, with no bag around it: the source's sha256, the pixels, their
    sums as the converter takes them, and the stored file in a row group of parquet.
    """
    cv2.setNumThreads(1)
    digest, schema = hashlib.sha256(), pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(out, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for start in range(0, frames, GROUP):
            stored = []
            for number in range(start, min(start + GROUP, frames)):
                source = sources[number % len(sources)]
                digest.update(source)
                image, file = make(source)
                tally(image, number)
                stored.append(file)
            writer.write_table(pa.table([pa.array(stored, pa.binary())], schema))


BARS = ("verified", "trusted", "resized", "raw", "png", "workers", "memory")


def _command(src: Path, out: Path, workers: int, flags: Sequence[str]) -> list[str]:
    return ["--src", str(src), "--out", str(out), "--workers", str(workers), *flags]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bars that were asked for; returns 0 whether they hold or not, the lines tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.convert", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BARS, default=BARS, help="bars (default: all)")
    parser.add_argument("--frames", type=int, default=3600, help="images of a bag, 480x640 (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="both sides take turns so often (%(default)s)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 20], help="bags of the memory bar (2 20)")
    parser.add_argument("--bags", type=int, default=6, help="bags of the workers bar (%(default)s)")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where 10 GB are free for a while"
    )
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="bench-convert-") as folder:
        bench = Bench(Path(folder), args.frames, args.rounds, args.minutes, args.bags)
        for name in args.only:
            getattr(bench, name)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
