"""A full disk is one line that names the place and the bytes; what was there stays whole, and a rerun works.

Where the need is known beforehand, it is said before the work begins.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import TINY_TRAINING
from tests.promises.conftest import SmallDisk
from tests.promises.harness import Ended, Warm, hashes, leftovers, loops
from tests.stage1_convert.recording import cell

KB = 1 << 10
LINE = re.compile(r"^error: .*[\d,]+ bytes", re.MULTILINE)
Run = Callable[[Path], Ended]


def is_one_line(ended: Ended) -> None:
    """Assert exit code 2 and one line that tells the place and the bytes."""
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output, ended.output
    assert len(re.findall("^error", ended.output, re.MULTILINE)) == 1, ended.output
    assert LINE.search(ended.output), ended.output


def smallest_that_works(run: Run, small_disk: SmallDisk, high: int) -> int:
    """Return a size of disk at which the command just works, by halving; every smaller one gives one line."""
    low = 0
    for _ in range(loops(3, 10)):
        middle = (low + high) // 2
        disk = small_disk(middle)
        (disk / "old").write_bytes(b"years of work")
        ended = run(disk / "out")
        assert (disk / "old").read_bytes() == b"years of work"
        if ended.code == 0:
            high = middle
            continue
        is_one_line(ended)
        assert str(disk) in ended.output
        assert not leftovers(disk)
        assert not (disk / "out" / "meta" / "info.json").exists()
        low = middle
    return high


def test_a_conversion(warm: Warm, tmp_path: Path, small_disk: SmallDisk) -> None:
    for number in range(2):
        cell(2.0, seed=number, size=(120, 160)).write(tmp_path / "src" / f"bag{number}")

    def convert(out: Path, *more: str) -> Ended:
        arguments = ("--src", tmp_path / "src", "--out", out, "--workers", 1, *more)
        return warm.run(tmp_path / "log", "stage1_convert", *arguments)

    enough = smallest_that_works(convert, small_disk, 8 << 20)
    disk = small_disk(2 * enough)
    assert convert(disk / "out").code == 0
    old = hashes(disk / "out")
    with (disk / "ballast").open("wb") as file:  # leaves less than another dataset needs
        file.write(bytes(shutil.disk_usage(disk).free - 64 * KB))
    is_one_line(
        convert(disk / "out", "--override", "conventions.jpeg_quality=80", "conventions.image_resize=[100, 100]")
    )
    assert hashes(disk / "out") == old
    (disk / "ballast").unlink()
    assert convert(disk / "out").code == 0
    assert hashes(disk / "out") == old


def test_a_training(warm: Warm, tmp_path: Path, small_disk: SmallDisk, image_dataset: Path) -> None:
    def train(out: Path, cache: Path = tmp_path / "cache", *more: str) -> Ended:
        settings = [
            *TINY_TRAINING,
            "training.steps=2",
            f"data.dataset={image_dataset}",
            f"training.output_dir={out}",
            f"data.cache_dir={cache}",
        ]
        return warm.run(tmp_path / "log", "stage2_train", "--override", *settings, *more)

    whole = train(tmp_path / "whole")
    assert whole.code == 0, whole.output
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    enough = smallest_that_works(train, small_disk, 3 * needed)
    assert train(small_disk(enough) / "out").code == 0
    is_one_line(train(tmp_path / "other", small_disk(100 * KB), "data.frame_cache=mmap"))


def test_an_evaluation(warm: Warm, tmp_path: Path, small_disk: SmallDisk, image_dataset: Path, act_tiny: Path) -> None:
    def evaluate(out: Path) -> Ended:
        arguments = (
            "--checkpoint",
            act_tiny,
            "--dataset",
            image_dataset,
            "--out",
            out,
            "--episodes",
            "all",
            "--device",
            "cpu",
            "--action-meaning",
            "delta",
        )
        return warm.run(tmp_path / "log", "stage3_eval", *arguments, XDG_CACHE_HOME=str(tmp_path / "cache"))

    whole = evaluate(tmp_path / "whole")
    assert whole.code == 0, whole.output
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    enough = smallest_that_works(evaluate, small_disk, 3 * needed)
    disk = small_disk(3 * enough)
    assert evaluate(disk / "out").code == 0
    old = hashes(disk / "out")
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 8 * KB))
    refused = evaluate(disk / "other")
    is_one_line(refused)
    assert re.search(r"[\d,]+ bytes free, [\d,]+ are needed", refused.output), "not said before the work began"
    assert not list(disk.glob("other/*.parquet"))
    assert hashes(disk / "out") == old
    (disk / "ballast").unlink()
    assert evaluate(disk / "other").code == 0
