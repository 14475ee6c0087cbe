"""The number of workers and the order in which the file system lists the bags do not change a byte of the dataset."""

import os
import shutil
from pathlib import Path

import pytest

from tests.reliability.conftest import SmallDisk
from tests.reliability.harness import Warm, hashes
from tests.stage1_convert.recording import RAW_TOPIC, Storage, cell

WORKERS = (1, 2, 5)


def test_the_dataset_is_the_same_bytes_however_it_is_made(warm: Warm, tmp_path: Path, small_disk: SmallDisk) -> None:
    for number in range(5):
        storage: Storage = "sqlite3" if number % 2 else "mcap"
        cell(0.8, seed=number, topic=RAW_TOPIC).write(tmp_path / "bags" / f"bag{number}", storage)
    cell(0.3).write(tmp_path / "bags" / "bag1b")  # is refused
    names = sorted(path.name for path in (tmp_path / "bags").iterdir())
    orders, datasets = [], []
    for number, workers in enumerate(WORKERS):
        src = (
            small_disk(16 << 20) / "src"
        )  # a tmpfs lists its files in the order in which they were made, or its reverse
        src.mkdir()
        for name in names[number:] + names[:number]:
            shutil.copytree(tmp_path / "bags" / name, src / name)
        orders.append(tuple(os.listdir(src)))  # noqa: PTH208 (the order is the point)
        out = tmp_path / f"out{workers}"
        ended = warm.run(tmp_path / "log", "stage1_convert", "--src", src, "--out", out, "--workers", workers)
        assert ended.code == 0, ended.output
        datasets.append(hashes(out))
    if len(set(orders)) == 1:
        pytest.skip("this file system lists in the order of names")
    assert datasets[0]
    assert datasets == datasets[:1] * len(WORKERS)
