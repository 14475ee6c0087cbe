"""A full disk is one line that names the place and the bytes; what was there stays whole, and a rerun resumes."""

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage2_train.tracking.tracker import Tracker
from tests import azurite
from tests.azurite.gate import Answer, Gate
from tests.reliability.conftest import SmallDisk
from tests.reliability.harness import Ended, Warm, hashes, leftovers, loops
from tests.stage1_convert.recording import RAW_TOPIC, cell
from tests.stage2_train.tiny import TINY, tiny_config, write_dataset

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


@pytest.fixture
def convert(warm: Warm, tmp_path: Path) -> Callable[..., Ended]:
    """Convert three short bags."""
    for number in range(3):
        cell(1.0, seed=number, size=(120, 160)).write(tmp_path / "src" / f"bag{number}")

    def run(out: Path, *more: str) -> Ended:
        arguments = ("--src", tmp_path / "src", "--out", out, "--workers", 1, *more)
        ended = warm.run(tmp_path / "log", "stage1_convert", *arguments)
        assert ended.code or ", 0 refused" in ended.output
        return ended

    return run


def test_a_conversion(convert: Callable[..., Ended], small_disk: SmallDisk) -> None:
    disk = small_disk(2 * smallest_that_works(convert, small_disk, 3 << 19))
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


def test_a_conversion_whose_disk_fills_up_on_the_way_keeps_what_is_done(
    convert: Callable[..., Ended], tmp_path: Path, small_disk: SmallDisk
) -> None:
    assert convert(tmp_path / "out").code == 0
    needed = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    disk = small_disk(3 * needed)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 6 * needed // 10))
    ended = convert(disk / "out")
    is_one_line(ended)
    assert f"; finished bags are kept in {disk}/.out.parts for the next run" in ended.output
    assert not leftovers(disk)
    (disk / "ballast").unlink()
    assert "unchanged since they were converted before" in convert(disk / "out").output
    assert hashes(disk / "out") == hashes(tmp_path / "out")


def test_a_bag_that_certainly_does_not_fit_is_not_begun(warm: Warm, tmp_path: Path, small_disk: SmallDisk) -> None:
    cell(2.0, size=(120, 160), topic=RAW_TOPIC).write(tmp_path / "src" / "bag")
    size = sum(path.stat().st_size for path in (tmp_path / "src" / "bag").iterdir())
    disk = small_disk(64 * KB)
    assert size / 20 > 64 * KB
    command = tmp_path / "log", "stage1_convert", "--src", tmp_path / "src", "--workers", 1, "--out"
    ended = warm.run(*command, disk / "out")
    is_one_line(ended)
    assert re.search(
        rf"disk full: {disk}/\S+ has [\d,]+ bytes free, and bag bag needs at least {size // 20:,}", ended.output
    )
    assert not list(disk.iterdir())


def test_a_download(service: azurite.Azurite, warm: Warm, tmp_path: Path, small_disk: SmallDisk) -> None:
    for number in range(3):
        cell(0.8, seed=number, size=(240, 320)).write(tmp_path / "src" / f"bag{number}")
    sizes: dict[str, int] = {}
    for path in (tmp_path / "src").rglob("*.*"):
        service.container("full").upload_blob(path.relative_to(tmp_path / "src").as_posix(), path.read_bytes())
        sizes[path.parent.name] = sizes.get(path.parent.name, 0) + path.stat().st_size
    largest = max(sizes.values())

    def convert(gate: Gate, disk: Path) -> Ended:
        flags = ("--src", f"azure://{azurite.ACCOUNT}/full", "--out", tmp_path / "out", "--workers", 1)
        variables = azurite.environment(gate.port, disk / "here")
        more = ("--keep-downloads", "false")
        return warm.run(tmp_path / "log", "stage1_convert", *flags, *more, die_at=0, **variables)

    disk = small_disk(largest // 2)
    with Gate(service.port) as gate:  # checked first: not a byte comes
        ended = convert(gate, disk)
        is_one_line(ended)
        assert f"disk too full for bag bag0: {disk}" in ended.output
        assert gate.carried == 0
        assert not any(disk.iterdir())

    disk = small_disk(largest + largest // 2)
    filling = threading.Lock()

    def fill(method: str, path: str, answer: Answer) -> Answer:
        with filling:  # a bag's files come side by side: the second would write over the ballast what is left beside it
            if answer.status == 206 and not (disk / "ballast").exists():
                (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 16 * KB))
        return answer

    with Gate(service.port, fill) as gate:  # somebody else is faster
        ended = convert(gate, disk)
        is_one_line(ended)
        assert "disk full: " in ended.output
        assert str(disk) in ended.output
        (disk / "ballast").write_bytes(b"")
        ended = convert(gate, disk)  # one bag after the other: two do not fit
        assert ended.code == 0, ended.output
        assert "3 converted" in ended.output
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 16 * KB))
        ended = convert(gate, disk)  # nothing has to be downloaded
        assert ended.code == 0, ended.output
        assert "3 unchanged" in ended.output


def test_a_training(warm: Warm, tmp_path: Path, small_disk: SmallDisk, image_dataset: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", lengths=[2000])

    def train(out: Path, cache: Path = tmp_path / "cache", *more: str) -> Ended:
        settings = [
            *TINY,
            "training.steps=2",
            f"data.dataset={dataset}",
            f"training.output_dir={out}",
            f"data.cache_dir={cache}",
        ]
        return warm.run(tmp_path / "log", "stage2_train", "--override", *settings, *more)

    whole = train(tmp_path / "whole")
    assert whole.code == 0, whole.output
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    enough = smallest_that_works(train, small_disk, 3 * needed)
    assert train(small_disk(enough) / "out").code == 0
    is_one_line(
        train(tmp_path / "other", small_disk(100 * KB), "data.frame_cache=mmap", f"data.dataset={image_dataset}")
    )
    full = small_disk(16 * KB)
    (full / "ballast").write_bytes(bytes(16 * KB))
    ended = train(full / "out")
    is_one_line(ended)
    assert str(full) in ended.output


def test_a_line_of_metrics(dataset: Path, small_disk: SmallDisk) -> None:
    disk = small_disk(16 * KB)
    with Tracker(tiny_config(dataset, disk), 0) as tracker:
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(UserError, match=f"disk full: {disk}/metrics.jsonl "):
            tracker.log(1, {"loss": 1.0})


def test_an_evaluation(warm: Warm, tmp_path: Path, small_disk: SmallDisk, image_dataset: Path, act_tiny: Path) -> None:
    def evaluate(out: Path) -> Ended:
        arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--out", out, "--episodes", 0)
        more = ("--device", "cpu", "--latency-steps", 0)
        return warm.run(tmp_path / "log", "stage3_eval", *arguments, *more, XDG_CACHE_HOME=str(tmp_path / "cache"))

    whole = evaluate(tmp_path / "whole")
    assert whole.code == 0, whole.output
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    disk = small_disk(smallest_that_works(evaluate, small_disk, 3 * needed))
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 8 * KB))
    is_one_line(evaluate(disk / "out"))
    assert not list(disk.glob("out/*"))
    (disk / "ballast").unlink()
    assert evaluate(disk / "out").code == 0
