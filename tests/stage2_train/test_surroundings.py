"""Unusual surroundings: odd file names, a read-only dataset, a cache that cannot be written to, a clock that jumps."""

import itertools
import re
import subprocess
import time
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage2_train.train import train
from tests.reliability.conftest import SmallDisk
from tests.stage2_train.tiny import VALIDATED, content, tiny_config, without_times, write_dataset

pytestmark = pytest.mark.integration

ODD = "zwölf Bögen, ein Ende 終わり; 'and' \"so\"#1"
READ_ONLY = ("mount", "-o", "remount,ro")


@pytest.mark.parametrize("folder", [ODD, "/".join(["long" * 50] * 6)], ids=["odd", "long"])
def test_paths_may_have_spaces_signs_and_any_letters_and_be_long(folder: str, whole: Path, tmp_path: Path) -> None:
    parent = tmp_path / folder
    parent.mkdir(parents=True)
    out = parent / "out put"
    train(tiny_config(write_dataset(parent / "data set"), out, *VALIDATED))
    assert not list((parent / "cache").iterdir())  # no camera
    assert content(out) == content(whole)
    train(tiny_config(parent / "data set", out, *VALIDATED, "training.steps=13"))
    assert (out / "checkpoint_000013").is_dir()


def test_a_dataset_may_lie_on_a_read_only_disk(small_disk: SmallDisk, tmp_path: Path) -> None:
    disk = small_disk(4 << 20)
    dataset = write_dataset(disk / "dataset", cameras={"front": (32, 32)})
    subprocess.run([*READ_ONLY, disk], check=True)
    train(tiny_config(dataset, tmp_path / "out", "training.steps=1"))
    assert (tmp_path / "out" / "checkpoint_000001").is_dir()


def test_a_cache_that_cannot_be_written_to_is_refused(dataset: Path, small_disk: SmallDisk, tmp_path: Path) -> None:
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
    train(tiny_config(dataset, tmp_path / "out", f"data.cache_dir={disk / 'there'}", "data.frame_cache=none"))


def test_a_clock_that_jumps_disturbs_nothing(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = (1e9 + 1e7 * (-1) ** n * n for n in itertools.count())
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    train(tiny_config(dataset, tmp_path / "out", *VALIDATED, "training.save_every_min=60"))
    assert content(tmp_path / "out") == content(whole)
    assert without_times(tmp_path / "out") == without_times(whole)
