"""The cache of images: the same images from a map or decoded at every use; it is filled once and only where it fits."""

import fcntl
import logging
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.cli.command import UserError
from common.lerobot import frame_cache
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import cache_bytes, open_frames
from common.lerobot.frames import DecodedFrames, Frames, MappedFrames
from common.lerobot.images import resize
from stage2_train.__main__ import main
from tests.common.lerobot.foreign import change_cells, change_info
from tests.conftest import GOLDEN

ROWS = np.array([41, 0, 19, 20, 20])


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.open(GOLDEN / "dataset_image")


def taken(frames: Frames) -> np.ndarray:
    out = np.empty((len(ROWS), *frames.shape), np.uint8)
    frames.take(ROWS, out)
    return out


def filled(dataset: Dataset, cache: Path) -> Path:
    open_frames(dataset, cache)
    (folder,) = (cache / "frames").glob("*/")
    return folder


@pytest.mark.parametrize("kind", ["image", "video"])
def test_decoding_at_every_use_gives_what_the_map_gives(kind: str, tmp_path: Path) -> None:
    dataset = Dataset.open(GOLDEN / f"dataset_{kind}")
    mapped = open_frames(dataset, tmp_path)["color"]
    decoded = open_frames(dataset, tmp_path / "unwritten", mode="none")["color"]
    assert isinstance(mapped, MappedFrames)
    assert isinstance(decoded, DecodedFrames)
    np.testing.assert_array_equal(taken(decoded), taken(mapped))
    assert not (tmp_path / "unwritten").exists()


@pytest.mark.parametrize("mode", ["mmap", "none"])
def test_images_are_resized_when_they_are_decoded(mode: str, dataset: Dataset, tmp_path: Path) -> None:
    whole = open_frames(dataset, tmp_path)["color"]
    small = open_frames(dataset.in_size((32, 48)), tmp_path, mode)["color"]  # type: ignore[arg-type]
    assert small.shape == (32, 48, 3)
    for image, wanted in zip(taken(small), taken(whole), strict=True):
        np.testing.assert_array_equal(image, cv2.resize(wanted, (48, 32), interpolation=cv2.INTER_AREA))


def test_an_image_of_the_requested_size_is_not_copied() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert resize(image, (4, 6)) is image
    assert resize(image, None) is image
    assert resize(image, (8, 12)).shape == (8, 12, 3)


def test_the_map_has_the_announced_size(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        path = filled(dataset, tmp_path) / "color.u8"
    assert path.stat().st_size == cache_bytes(dataset) == 42 * 64 * 96 * 3
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # no holes that a full disk would answer with SIGBUS
    assert "decoding 42 images of color once (0.00 GB)" in caplog.text


def test_it_is_filled_once_and_again_when_the_dataset_changes(image_dataset: Path, tmp_path: Path) -> None:
    def files() -> dict[Path, int]:
        open_frames(Dataset.open(image_dataset), tmp_path / "cache")
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("color.*")}

    first = files()
    assert len(first) == 1
    assert files() == first
    copied = shutil.copytree(image_dataset, tmp_path / "copied", copy_function=shutil.copyfile)  # with other times
    assert frame_cache._key(Dataset.open(Path(copied))) == frame_cache._key(Dataset.open(image_dataset))
    change_info(image_dataset, lambda info: info.update(robot_type="another"))
    assert len(files()) == 2


def test_a_damaged_image_is_named_by_camera_episode_and_frame(image_dataset: Path, tmp_path: Path) -> None:
    change_cells(image_dataset, "observation.images.color", lambda cells: cells[23].update(bytes=b"\x89PNG"))
    with pytest.raises(UserError, match="camera color, episode 1, frame 3: the image"):
        open_frames(Dataset.open(image_dataset), tmp_path)
    assert not list((tmp_path / "frames").glob("*/"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_auto_decodes_at_every_use_and_mmap_refuses(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_frames(dataset, tmp_path)["color"], DecodedFrames)
    assert "disk too full for the decoded images" in caplog.text
    with pytest.raises(UserError, match="1,000 bytes free, 774,144 are needed"):
        open_frames(dataset, tmp_path, mode="mmap")


def test_one_process_fills_it_and_the_others_wait(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "frames" / frame_cache._key(dataset)
    folder.parent.mkdir()
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(1) as pool, folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        opened = pool.submit(open_frames, dataset, tmp_path)
        deadline_s = time.monotonic() + 30
        while "waiting for another process" not in caplog.text:
            assert not opened.done()
            assert time.monotonic() < deadline_s
        assert not folder.exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert opened.result(30)


def test_the_cache_is_listed_and_cleared_by_the_command(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(action: str) -> str:
        assert main(["--cache", action, "--override", f"data.cache_dir={tmp_path}"]) == 0
        return capsys.readouterr().out

    assert "nothing is cached" in show("list")
    open_frames(dataset, tmp_path)
    assert show("list").count(str(dataset.root)) == 1
    with subprocess.Popen(["true"]) as dead:
        pass
    killed, filling = (
        tmp_path / "frames" / f".tmp-{name}-{pid}" for name, pid in (("a", dead.pid), ("b", os.getpid()))
    )
    for unfinished in (killed, filling):  # by a training that was killed, and by one that runs
        unfinished.mkdir()
    assert len(show("list").splitlines()) == 1
    show("clear")
    assert "nothing is cached" in show("list")
    assert filling.exists()
    assert not killed.exists()


def test_reading_a_large_map_takes_no_memory(tmp_path: Path) -> None:
    def anonymous_kb() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    with (tmp_path / "camera.u8").open("wb") as file:
        file.truncate(4000 * 480 * 640 * 3)  # 3.7 GB of holes: the kernel may drop what it has read of them at any time
    frames = MappedFrames(tmp_path / "camera.u8", 4000, (480, 640, 3))
    out = np.ones((8, 480, 640, 3), np.uint8)
    frames.take(np.arange(8), out)
    before = anonymous_kb()
    for first in range(0, 4000, 400):
        frames.take(np.arange(first, first + 8), out)
    assert anonymous_kb() - before < 10_000
    assert not out.any()


def test_a_map_of_another_version_is_not_read(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_cache, "CACHE_VERSION", frame_cache.CACHE_VERSION - 1)
    old = filled(dataset, tmp_path)
    (old / "color.u8").write_bytes(bytes((old / "color.u8").stat().st_size))
    monkeypatch.undo()
    assert taken(open_frames(dataset, tmp_path)["color"]).any()
    assert len(list((tmp_path / "frames").glob("*/"))) == 2


def test_an_incomplete_map_of_a_killed_process_is_removed(dataset: Dataset, tmp_path: Path) -> None:
    folder = filled(dataset, tmp_path)
    child = subprocess.Popen(["true"])
    child.wait()
    half = folder.rename(folder.with_name(f".tmp-{folder.name}-{child.pid}"))
    (half / "color.u8").write_bytes(b"half")
    assert taken(open_frames(dataset, tmp_path)["color"]).any()
    assert not half.exists()
