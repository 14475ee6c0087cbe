"""A dry run tells what the conversion then does, and writes nothing."""

from pathlib import Path

import pytest

from common.config import load
from stage1_convert.config import Config
from stage1_convert.dryrun import dry_run, forecast
from stage1_convert.source import find_bags
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import RAW_TOPIC, cell


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bag, one with a gap, and one without pictures."""
    src = tmp_path_factory.mktemp("dryrun")
    cell(seed=1, topic=RAW_TOPIC, size=(96, 128)).write(src / "whole")
    gap = cell(seconds=3, size=(96, 128))
    del gap.pictures[30:45]
    gap.write(src / "gap")
    blind = cell()
    blind.pictures = []
    blind.write(src / "blind")
    return src


def test_it_tells_the_episodes_gaps_and_refusals_of_the_conversion(bags: Path, tmp_path: Path) -> None:
    config = load(Config, None, [])
    told = {one.bag: one for one in (forecast(source, config) for source in find_bags(bags))}
    run(bags, tmp_path / "out")
    for bag in report(tmp_path / "out")["bags"]:
        one = told[bag["bag"]]
        assert one.refused == bag["reason"]
        assert one.frames == [episode["frames"] for episode in bag["episodes"]]
        assert len(one.gaps) == len(bag.get("gaps", []))
    assert told["gap"].gaps[0].endswith("nothing from color")


@pytest.mark.parametrize("storage", ["jpeg", "png", "video"])
def test_the_size_is_about_right(storage: str, bags: Path, tmp_path: Path) -> None:
    config = load(Config, None, [f"data.storage={storage}"])
    size_bytes = sum(forecast(source, config).size_bytes for source in find_bags(bags))
    run(bags, tmp_path / "out", f"data.storage={storage}")
    parts = [path for name in ("data", "videos", "meta/sync") for path in (tmp_path / "out" / name).rglob("*.*")]
    real_bytes = sum(path.stat().st_size for path in parts if path.is_file())
    assert 0.5 < size_bytes / real_bytes < 2


def test_nothing_is_written(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in bags.rglob("*")}
    assert dry_run(find_bags(bags), load(Config, None, []), tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*")} == before
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "bag blind: refused: has no topic" in printed
    assert "bags      2 would be converted, 1 refused" in printed
    assert "episodes  3" in printed
    assert f"MB are free at {tmp_path / 'out'}" in printed


def test_when_nothing_would_be_converted_the_exit_code_says_so(bags: Path) -> None:
    blind = [source for source in find_bags(bags) if source.name == "blind"]
    assert dry_run(blind, load(Config, None, []), None) == 2
