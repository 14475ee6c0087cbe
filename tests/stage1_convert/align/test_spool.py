"""Rows that were added are all there, in order, whether memory holds them or a file."""

from pathlib import Path

import numpy as np
import pytest

from stage1_convert.align import spool
from tests.stage1_convert.memory import at_most


@pytest.mark.parametrize("memory_bytes", [1 << 20, 100, 0])
def test_all_rows_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", memory_bytes)
    rows = np.random.default_rng(0).normal(size=(100, 3))
    collected = spool.Spool(tmp_path)
    for start in range(0, 100, 7):
        collected.add(rows[start : start + 7])
    found = collected.array()
    np.testing.assert_array_equal(found, rows)
    assert isinstance(found, np.memmap) == (memory_bytes < 1 << 20)
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_no_rows_stay_no_rows_of_their_kind() -> None:
    collected = spool.Spool()
    collected.add(np.zeros((0, 4), np.float32))
    assert collected.array().shape == (0, 4)
    assert collected.array().dtype == np.float32


def test_rows_are_picked_from_a_file_that_memory_lets_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    monkeypatch.setattr(spool, "BLOCK_BYTES", 1 << 16)
    rows = np.random.default_rng(1).normal(size=(200_000, 3))
    collected = spool.Spool()
    for part in np.array_split(rows, 50):
        collected.add(part)
    found = collected.array()
    index = np.sort(np.random.default_rng(2).integers(0, len(rows), 5000))
    with at_most(1 << 20):
        np.testing.assert_array_equal(spool.take(found, index), rows[index])
        np.testing.assert_array_equal(spool.thin(found, 61), rows[::61])
    assert spool.take(found, index[:0]).shape == (0, 3)
