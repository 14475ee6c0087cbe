"""Rows that were added are all there, in order, whether memory holds them or a file."""

from pathlib import Path

import numpy as np
import pytest

from stage1_convert import spool


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
