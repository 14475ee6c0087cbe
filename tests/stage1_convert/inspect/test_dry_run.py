"""A dry run tells what the conversion then does, and writes nothing."""

from pathlib import Path

import pytest

from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.inspect.dry_run import dry_run, forecast
from stage1_convert.sources.azure import AzureBags
from stage1_convert.sources.folder import find_bags
from tests import azurite
from tests.azurite.gate import Answer, Gate
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import RAW_TOPIC, cell


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bag, one with a gap, and one without images."""
    src = tmp_path_factory.mktemp("dryrun")
    cell(seed=1, topic=RAW_TOPIC, size=(96, 128)).write(src / "whole")
    gap = cell(seconds=3, size=(96, 128))
    del gap.images[30:45]
    gap.write(src / "gap")
    blind = cell()
    blind.images = []
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
    assert dry_run(find_bags(bags), 3, load(Config, None, []), tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*")} == before
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "bag blind: refused: has no topic" in printed
    assert "bags      2 would be converted, 1 refused" in printed
    assert "episodes  3" in printed
    assert f"MB are free at {tmp_path / 'out'}" in printed


def test_when_nothing_would_be_converted_the_exit_code_says_so(bags: Path) -> None:
    blind = [source for source in find_bags(bags) if source.name == "blind"]
    assert dry_run(blind, 1, load(Config, None, []), None) == 2


def test_bags_that_are_far_away_are_told_of_and_not_brought(
    service: azurite.Azurite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, here, container = tmp_path / "local", tmp_path / "here", service.container("dryrun")
    cell(2.0).write(local / "folder")
    cell(1.0).write(local / "kept")
    cell(1.0).write(local / "database", "sqlite3")
    blind = cell(1.0)
    blind.images = []
    blind.write(local / "blind")
    (local / "bare.mcap").write_bytes((local / "folder" / "folder.mcap").read_bytes())
    (local / "bare.db3").write_bytes((local / "database" / "database.db3").read_bytes())
    (local / "open.mcap").write_bytes((local / "bare.mcap").read_bytes()[:-40])
    sizes = {path.relative_to(local).as_posix(): path.stat().st_size for path in local.rglob("*.*")}
    for name in sizes:
        container.upload_blob(name, (local / name).read_bytes())
    with Gate(service.port) as gate:
        supply = AzureBags(f"azure://{azurite.ACCOUNT}/dryrun", True, azurite.environment(gate.port, here))
        list(supply.fetch([offer for offer in supply.offers if offer.name == "kept"]))
        gate.asked.clear()
        before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
        offers = supply.offers
        assert dry_run(supply.look(offers), len(offers), load(Config, None, []), tmp_path / "out") == 0
        assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
        metadata_bytes = sum(sizes[f"{name}/metadata.yaml"] for name in ("folder", "database", "blind"))
        assert metadata_bytes < gate.carried < metadata_bytes + 10_000  # and the end of one .mcap file
    said = capsys.readouterr().out
    known = f"not here, {sizes['folder/folder.mcap'] / 1e6:.1f} MB, 2.0 s, at most 60 frames; messages: joints 200, color 60"
    assert f"bag bare.mcap: {known}" in said
    assert f"bag folder: {known}" in said
    assert "bag database: not here, 0.1 MB, 1.0 s, at most 30 frames; messages: joints 100, color 30" in said
    assert "bag bare.db3: not here, 0.1 MB; what is in it shows only when it is here" in said
    assert "bag open.mcap: not here, 0.1 MB; what is in it shows only when it is here" in said
    assert "bag blind: refused: has no topic" in said
    assert "bag kept: 1 episode of" in said
    assert "bags      1 would be converted, 1 refused\ndownload  5 more, " in said

    with Gate(
        service.port, lambda method, path, answer: answer if "comp=list" in path else Answer(404, {}, b"")
    ) as gate:
        supply = AzureBags(f"azure://{azurite.ACCOUNT}/dryrun/database", True, azurite.environment(gate.port, here))
        assert dry_run(supply.look(supply.offers), 1, load(Config, None, []), None) == 2
    assert "bag database: refused: blob database/metadata.yaml: there is no such" in capsys.readouterr().out
