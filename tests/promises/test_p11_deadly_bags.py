"""A bag that kills the process that reads it, or makes it ask for all memory, costs that bag only."""

from pathlib import Path

import yaml

from tests.promises.harness import Warm, hashes
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import cell


def nested(bag: Path) -> None:
    """Nest metadata.yaml so deeply that libyaml, which recurses in C, runs over the end of its stack."""
    (bag / "metadata.yaml").write_text("[" * 1_000_000)


def laughing(bag: Path) -> None:
    """Let 100 KB of custom data name themselves ten times, and these ten times, and so on: 100 GB as text."""
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    laughter: object = "ha" * 50_000
    for _ in range(6):
        laughter = [laughter] * 10
    metadata["rosbag2_bagfile_information"]["custom_data"] = {"task": laughter}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def test_a_bag_that_kills_its_reader_costs_that_bag_only(warm: Warm, tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number, name in enumerate("abcde"):
        cell(0.8, seed=number, size=(16, 64)).write(src / name, "sqlite3" if number % 2 else "mcap")
    nested(src / "b")
    laughing(src / "d")
    ended = warm.run(tmp_path / "log", "stage1_convert", "--src", src, "--out", tmp_path / "out", "--workers", 2)
    assert ended.code == 0, ended.output
    assert "3 converted, 2 refused" in ended.output
    assert "Traceback" not in ended.output
    status = {bag["bag"]: bag["reason"] or "converted" for bag in report(tmp_path / "out")["bags"]}
    assert [status[name] for name in "ace"] == ["converted"] * 3
    assert status["b"] == "the process that read it died (SIGSEGV); it is damaged"
    assert status["d"].startswith("asks for more than 2,1")
    for name in "bd":
        assert f"refused: bag {name}: {status[name]}" in ended.output
    run(src, tmp_path / "whole", "data.exclude=[b, d]")
    assert hashes(tmp_path / "whole" / "data") == hashes(tmp_path / "out" / "data")
