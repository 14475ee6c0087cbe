"""The number of threads that compute the images of a bag changes no byte, and no thread outlives its bag."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cli.config import load
from common.lerobot.images import decode_intact
from stage1_convert.config import Config
from stage1_convert.dataset.record import BagEntry
from stage1_convert.pipeline import frames
from stage1_convert.pipeline.convert_bag import Job, convert_bag
from stage1_convert.pipeline.in_order import ImageThreads
from stage1_convert.pipeline.progress import Progress
from stage1_convert.sources.source import BagPath
from tests.stage1_convert.conversion import tree
from tests.stage1_convert.recording import RAW_TOPIC, Recording, cell, draw, jpeg, with_images

DEPTH_TOPIC = "/camera/side/image_raw"
CAMERAS = f"data.cameras={{color: {RAW_TOPIC}, side: {DEPTH_TOPIC}}}"


def mixed(n_bad: int = 2) -> Recording:
    """Return a recording of two cameras, JPEG and raw: with images that are damaged, odd, cut off, and the same again."""
    recording = cell(3.0)
    recording.others = cell(3.0, seed=1, topic=DEPTH_TOPIC).images
    recording.others[30] = recording.others[30]._replace(message=recording.others[29].message)
    with_images(recording, range(20, 20 + n_bad), lambda _, data: data[:-200] + b"\xff\xd9")
    with_images(recording, [25], lambda _, data: data[:100])
    with_images(recording, [40, 41, 60], lambda _, data: data[:-2] + b"\x12\x34\x56" + data[-2:])
    return with_images(recording, [50, 51, 52], lambda *_: jpeg(draw(50)))


def converted(bag: Path, out: Path, threads: int, *overrides: str, trust: bool = False) -> tuple[BagEntry, object]:
    """Convert a bag; return its entry and every byte of what it was converted to."""
    out.mkdir()
    progress = out / "progress"
    Progress(progress, [1])
    job = Job(out, progress, load(Config, None, [CAMERAS, *overrides]), trust, threads, hash_beside=threads > 1)
    entry = convert_bag(BagPath("bag", bag), 0, job)
    return entry, tree(out / entry.key) if entry.key and (out / entry.key).exists() else None


@pytest.mark.parametrize("storage", ["jpeg", "png", "video"])
def test_the_number_of_threads_changes_no_byte(tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "BATCH_BYTES", 7 * draw(0).nbytes)  # many batches
    bag = mixed().write(tmp_path / "bag")
    results = [converted(bag, tmp_path / f"{n}", n, f"data.storage={storage}") for n in (1, 2, 5)]
    entry, files = results[0]
    assert files is not None, entry.reason
    assert entry.bad_messages["color"].count == 3
    assert any("with something odd that is no damage" in text for text in entry.warnings)
    assert results == results[:1] * 3


def test_nor_do_they_for_images_that_are_trusted(tmp_path: Path) -> None:
    bag = mixed().write(tmp_path / "bag")
    results = [converted(bag, tmp_path / f"{n}", n, trust=True) for n in (1, 3)]
    entry, files = results[0]
    assert files is not None, entry.reason
    assert 1 <= entry.bad_messages["color"].count <= 3
    assert results[1] == results[0]


def test_a_refusal_does_not_depend_on_the_threads_either(tmp_path: Path) -> None:
    bag = mixed(n_bad=8).write(tmp_path / "bag")
    results = [converted(bag, tmp_path / f"{n}", n) for n in (1, 3)]
    entry, files = results[0]
    assert "bad" in (entry.reason or "")
    assert entry.key
    assert files is None
    assert results[1] == results[0]


def computed(threads: int, items: Iterator[bytes]) -> Iterator[bool]:
    """Yield which of the items are images, in batches of four."""

    def is_whole(data: bytes) -> bool:
        with contextlib.suppress(Exception):
            return bool(decode_intact(data).size)
        return False

    work = ImageThreads(threads, is_whole, lambda: 4, lambda whole: not whole)
    for _, whole in work.results(items):
        yield whole


@pytest.mark.parametrize("threads", [1, 3])
def test_each_image_has_its_own_verdict_and_reading_fails_in_its_turn(threads: int) -> None:
    whole = jpeg(draw(1))
    kinds = [whole, whole[:-200] + b"\xff\xd9", whole, whole, whole, b"", whole, whole, whole, whole]

    def items() -> Iterator[bytes]:
        yield from kinds
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for verdict in computed(threads, items()):
            found.append(verdict)  # noqa: PERF402 (those before the failure are kept)
    assert found == [data is whole for data in kinds]


def test_little_is_read_ahead_and_an_abandoned_reading_leaves_no_thread() -> None:
    read = []

    def items() -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield jpeg(draw(number))

    before = threading.active_count()
    results = computed(3, items())
    assert [next(results) for _ in range(8)] == [True] * 8
    assert threading.active_count() > before
    results.close()  # type: ignore[attr-defined]
    assert len(read) <= 16
    assert threading.active_count() == before
