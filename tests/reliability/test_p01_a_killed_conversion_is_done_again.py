"""kill -9 anywhere in a conversion, run the same command again: the same dataset, byte for byte, and nothing else."""

import shutil
from pathlib import Path

import pytest

from common.storage.files import remove_stale
from tests.reliability.harness import Command, Ended, Warm, hashes, kill_and_repeat, leftovers, loops
from tests.stage1_convert.recording import cell


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    src = tmp_path_factory.mktemp("p01") / "src"
    for number, storage in enumerate(("mcap", "sqlite3", "mcap")):
        cell(1.0, seed=number).write(src / f"bag{number}", storage)  # type: ignore[arg-type]
    return src


@pytest.mark.parametrize(("workers", "short", "soak"), [(1, 8, 150), (2, 4, 50)])
def test_a_killed_conversion_gives_the_same_dataset_when_it_is_run_again(
    bags: Path, warm: Warm, tmp_path: Path, workers: int, short: int, soak: int
) -> None:
    def convert(die_at: int = 0, to: Path = tmp_path / "killed" / "out") -> Command:
        arguments = ("--src", bags, "--out", to, "--workers", workers)
        return warm.start(tmp_path / "log", "stage1_convert", *arguments, die_at=die_at)

    def again() -> None:
        ended = convert().join()
        assert ended.code == 0, ended.output
        assert hashes(tmp_path / "killed" / "out") == expected
        assert not leftovers(tmp_path)
        shutil.rmtree(tmp_path / "killed")

    whole = convert(to=tmp_path / "whole").join()
    expected = hashes(tmp_path / "whole")
    assert len(expected) > 6, whole.output
    hits = kill_and_repeat(convert, whole, loops(short, soak), again)
    assert hits >= loops(short, soak) // 2, "too few kills came in time to show anything"


def test_a_kill_while_a_dataset_is_replaced_leaves_the_old_one_or_the_new_one(
    bags: Path, warm: Warm, tmp_path: Path
) -> None:
    def convert(out: Path, die_at: int = 0) -> Ended:
        arguments = ("--src", tmp_path / "src", "--out", out, "--workers", 1)
        return warm.run(tmp_path / "log", "stage1_convert", *arguments, die_at=die_at)

    out = tmp_path / "out"
    shutil.copytree(bags, tmp_path / "src")
    convert(out)
    old = hashes(out)
    shutil.rmtree(tmp_path / "src" / "bag2")
    whole = convert(tmp_path / "new")
    new = hashes(tmp_path / "new")
    assert old.keys() > new.keys()
    die_at, code = whole.changes - loops(4, 60), -1
    while code:  # on until one run is not reached by the kill: the old dataset goes last
        code = convert(out, die_at).code
        remove_stale(tmp_path)  # as every start does: between its two renames the old one has another name
        assert hashes(out) in (old, new), f"killed at change {die_at}: half of each"
        die_at += loops(3, 1)
    assert convert(out).code == 0
    assert hashes(out) == new
    assert not leftovers(tmp_path)
