"""A dry run describes what the conversion then does, and writes nothing."""

import re
from pathlib import Path

import numpy as np
import pytest

from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.inspect.dry_run import dry_run, estimate_bag
from stage1_convert.sources.azure import AzureBags
from stage1_convert.sources.folder import LocalBags, find_bags
from tests import azurite
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import RAW_TOPIC, cell, raw_image, stamp_of


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


def test_episodes_gaps_and_refusals_are_those_of_the_conversion(bags: Path, tmp_path: Path) -> None:
    config = load(Config, None, [])
    estimates = {source.name: estimate_bag(source, config) for source in find_bags(bags)}
    run(bags, tmp_path / "out")
    for bag in report(tmp_path / "out")["bags"]:
        estimate = estimates[bag["bag"]]
        assert estimate.refused == bag["reason"]
        assert list(estimate.frames) == [episode["frames"] for episode in bag["episodes"]]
        assert len(estimate.gaps) == len(bag.get("gaps", []))
    assert estimates["gap"].gaps[0].endswith("nothing from color")


def test_images_outside_of_the_range_of_their_camera_are_a_warning(tmp_path: Path) -> None:
    recording = cell(topic=RAW_TOPIC, size=(48, 32))
    for number, said in enumerate(recording.images):
        depth = np.full((48, 32), 9000, "<u2").view(np.uint8)[..., None]
        message = raw_image(stamp_of(said), depth, "16UC1")
        message.width = 32
        recording.images[number] = said._replace(message=message)
    recording.write(tmp_path / "src" / "bag")
    (warning,) = estimate_bag(find_bags(tmp_path / "src")[0], load(Config, None, [])).warnings
    assert "100% of the measured pixels lie outside data.depth_range_m" in warning
    assert run(tmp_path / "src", tmp_path / "out").warnings == [("bag", warning)]


@pytest.mark.parametrize(("storage", "low", "high"), [("jpeg", 0.5, 2), ("png", 0.5, 2), ("video", 1, 20)])
def test_the_size_is_about_right(storage: str, low: float, high: float, bags: Path, tmp_path: Path) -> None:
    config = load(Config, None, [f"data.storage={storage}"])
    size_bytes = sum(estimate_bag(source, config).size_bytes for source in find_bags(bags))
    run(bags, tmp_path / "out", f"data.storage={storage}")
    parts = [path for name in ("data", "videos", "meta/sync") for path in (tmp_path / "out" / name).rglob("*.*")]
    written_bytes = sum(path.stat().st_size for path in parts if path.is_file())
    assert low < size_bytes / written_bytes < high


def test_nothing_is_written(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in bags.rglob("*")}
    assert dry_run(LocalBags(bags), LocalBags(bags).bags, load(Config, None, []), tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*")} == before
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "bag blind: refused: has no topic" in printed
    assert "bags      2 would be converted, 1 refused" in printed
    assert "episodes  3" in printed
    assert f"MB are free at {tmp_path / 'out'}" in printed


def test_when_nothing_would_be_converted_the_exit_code_says_so(bags: Path) -> None:
    blind = LocalBags(bags / "blind")
    assert dry_run(blind, blind.bags, load(Config, None, []), None) == 2


def test_bags_in_a_storage_account_are_downloaded(
    service: azurite.Azurite, bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, container, config = tmp_path / "here", service.container("dryrun"), load(Config, None, [])
    for path in bags.rglob("*.*"):
        container.upload_blob(path.relative_to(bags).as_posix(), path.read_bytes())
    assert dry_run(LocalBags(bags), LocalBags(bags).bags, config, tmp_path / "out") == 0
    expected = capsys.readouterr().out
    for keep in (True, False):
        source = AzureBags(f"azure://{azurite.ACCOUNT}/dryrun", keep, azurite.environment(service.port, here))
        assert dry_run(source, source.bags, config, tmp_path / "out") == 0
        printed = capsys.readouterr().out
        if keep:
            line, _, printed = printed.partition("\n")
            size_bytes = sum(bag.size_bytes for bag in source.bags)
            assert line == f"download  {size_bytes / 1e6:,.1f} MB to {here}: a dry run reads whole bags"
        free = r"; .* MB are free"
        assert re.sub(free, "", printed) == re.sub(free, "", expected)
        assert [bag.name for bag in source.bags] == ["blind", "gap", "whole"]
        held = {path.parent.name for path in here.rglob("*") if path.is_file()}
        assert held == ({"blind", "gap", "whole"} if keep else set())
