"""What surrounds a training may be odd: where things lie, a dataset that changes meanwhile, a clock that jumps."""

import itertools
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage2_train.train import train
from tests.conftest import GOLDEN, ROOT, TINY_TRAINING
from tests.reliability.conftest import SmallDisk
from tests.stage2_train.tiny import VALIDATED, content, tiny_config, without_times, write_dataset

ODD = "zwölf Bögen, ein Ende 終わり; 'and' \"so\"#1"
READ_ONLY = ("mount", "-o", "remount,ro")


@contextmanager
def after_the_first_checkpoint(change: Callable[[], object]) -> Iterator[None]:
    """Change something as soon as the training says that it has saved."""

    class Hears(logging.Handler):
        done = False

        def emit(self, record: logging.LogRecord) -> None:
            if "saved" in record.getMessage() and not self.done:
                self.done = True
                change()

    heard = Hears(logging.INFO)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(heard)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(heard)
        root.setLevel(level)
    assert heard.done


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("folder", [ODD, "/".join(["long" * 50] * 6)], ids=["odd", "long"])
def test_names_may_have_spaces_signs_and_any_letters_and_be_long(folder: str, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    out = place / "out put"
    train(tiny_config(write_dataset(place / "data set"), out, *VALIDATED))
    assert (place / "cache" / "columns").is_dir()
    assert content(out) == content(whole)
    train(tiny_config(place / "data set", out, *VALIDATED, "training.steps=13"))
    assert (out / "checkpoint_000013").is_dir()


def test_a_dataset_on_a_disk_that_is_read_only_is_trained_on(small_disk: SmallDisk, tmp_path: Path) -> None:
    disk = small_disk(4 << 20)
    dataset = write_dataset(disk / "dataset", cameras={"front": (32, 32)})
    subprocess.run([*READ_ONLY, disk], check=True)
    train(tiny_config(dataset, tmp_path / "out", "training.steps=1"))
    assert (tmp_path / "out" / "checkpoint_000001").is_dir()


def test_a_cache_that_cannot_be_written_to_is_one_line(dataset: Path, small_disk: SmallDisk, tmp_path: Path) -> None:
    disk = small_disk(1 << 20)
    (disk / "there").mkdir()
    subprocess.run([*READ_ONLY, disk], check=True)
    (tmp_path / "file").touch()
    for cache, why in (
        (disk / "there", "not permitted"),
        (disk / "new", "Read-only file system"),
        (tmp_path / "file", "File exists"),
    ):
        with pytest.raises(UserError, match=re.escape(f"data.cache_dir={cache} cannot be written to: {why}; set data")):
            train(tiny_config(dataset, tmp_path / "out", f"data.cache_dir={cache}"))


def test_a_dataset_that_changes_meanwhile_is_told_once_and_the_training_ends_as_it_would_have(
    dataset: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, out = Path(shutil.copytree(dataset, tmp_path / "dataset")), tmp_path / "out"
    changed = own / "meta" / "stats.json"
    with after_the_first_checkpoint(lambda: changed.write_text(changed.read_text() + "\n")):
        train(tiny_config(own, out, *VALIDATED))
    (line,) = warnings(caplog)
    assert line.startswith(f"{changed} has changed since this training began: it goes on with what it read then")
    assert content(out) == content(whole)
    shutil.rmtree(out / "checkpoint_000012")
    with pytest.raises(UserError, match="cannot go on with another the content of"):
        train(tiny_config(own, out, *VALIDATED))


def test_a_training_that_decodes_videos_at_every_use_ends_when_one_changes(tmp_path: Path) -> None:
    own = Path(shutil.copytree(GOLDEN / "dataset_video", tmp_path / "dataset"))
    video = next(own.rglob("*.mp4"))
    out = tmp_path / "out"
    config = tiny_config(own, out, *TINY_TRAINING, "training.save_freq=1", "data.frame_cache=none")
    with (
        after_the_first_checkpoint(lambda: os.utime(video, ns=(0, 0))),
        pytest.raises(UserError, match=re.escape(f"{video} has changed since this training began, which decodes its")),
    ):
        train(config)
    assert [folder.name for folder in out.glob("checkpoint_*")] == ["checkpoint_000001"]


def test_a_clock_that_jumps_disturbs_nothing(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = (1e9 + 1e7 * (-1) ** n * n for n in itertools.count())
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    train(tiny_config(dataset, tmp_path / "out", *VALIDATED, "training.save_every_min=60"))
    assert content(tmp_path / "out") == content(whole)
    assert without_times(tmp_path / "out") == without_times(whole)


@pytest.mark.parametrize("folder", ["common", "stage1_convert", "stage2_train", "stage3_eval", "osmo"])
def test_no_duration_or_order_is_taken_from_a_clock_that_may_jump(folder: str) -> None:
    wall = re.compile(r"\btime\.(time|time_ns|ctime)\(|\b(datetime|date)\.(now|utcnow|today)\(|from time import")
    assert not [path for path in (ROOT / folder).rglob("*.py") if wall.search(path.read_text())]
