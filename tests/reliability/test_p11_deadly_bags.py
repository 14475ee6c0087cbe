"""A bag that kills the process that reads it, or makes it ask for all memory, costs that bag only."""

import sqlite3
from pathlib import Path

import pytest

from tests.reliability.harness import Warm, hashes
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import cell

VIEWS = 20_000


def deadly(database: Path) -> None:
    """Hide the list of topics behind so many views that sqlite, which opens them by recursion, runs over its stack's end."""
    behind = [("topics" if at == 0 else f"view_{at}", f"view_{at + 1}") for at in range(VIEWS)]
    with_views(database, f"view_{VIEWS}", {name: f"SELECT * FROM {other}" for name, other in behind})


def greedy(database: Path) -> None:
    """Give each topic a name of a gigabyte, which takes a few bytes to write down."""
    query = "SELECT id, hex(zeroblob(499000000)) AS name, type, serialization_format FROM hidden"
    with_views(database, "hidden", {"topics": query})


def with_views(database: Path, hidden: str, views: dict[str, str]) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"ALTER TABLE topics RENAME TO {hidden}")
        connection.execute("PRAGMA writable_schema = ON")  # one by one each would be checked
        rows = [(name, name, f"CREATE VIEW {name} AS {query}") for name, query in views.items()]
        connection.executemany("INSERT INTO sqlite_master VALUES ('view', ?, ?, 0, ?)", rows)
    connection.close()


def test_a_bag_that_kills_its_reader_costs_that_bag_only(warm: Warm, tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number, name in enumerate("abcde"):
        cell(0.8, seed=number, size=(16, 64)).write(src / name, "sqlite3" if number % 2 else "mcap")
    deadly(src / "b" / "b.db3")
    greedy(src / "d" / "d.db3")
    ended = warm.run(tmp_path / "log", "stage1_convert", "--src", src, "--out", tmp_path / "out", "--workers", 2)
    assert ended.code == 0, ended.output
    assert "3 converted, 2 refused" in ended.output
    assert "Traceback" not in ended.output
    status = {bag["bag"]: bag["reason"] or "converted" for bag in report(tmp_path / "out")["bags"]}
    assert [status[name] for name in "ace"] == ["converted"] * 3
    assert status["b"] == "the process that read it died (SIGSEGV); it is damaged"
    size = sum(file.stat().st_size for file in (src / "d").iterdir())
    assert "bytes of memory; it is damaged or too large" in status["d"]
    assert f"has {size:,} bytes: split a long one into several bags with `ros2 bag convert`" in status["d"]
    for name in "bd":
        assert f"refused: bag {name}: {status[name]}" in ended.output
    run(src, tmp_path / "whole", "data.exclude=[b, d]")
    assert hashes(tmp_path / "whole" / "data") == hashes(tmp_path / "out" / "data")


@pytest.mark.parametrize("look", [("--inspect",), ("--dry-run", "--src")])
def test_a_look_at_bags_tells_of_the_one_that_kills_its_reader(
    warm: Warm, tmp_path: Path, look: tuple[str, ...]
) -> None:
    for name in "ab":
        cell(0.8, size=(16, 64)).write(tmp_path / "src" / name, "sqlite3")
    deadly(tmp_path / "src" / "a" / "a.db3")
    ended = warm.run(tmp_path / "log", "stage1_convert", *look, tmp_path / "src", "--out", tmp_path / "out")
    assert ended.code == (2 if look[0] == "--inspect" else 0), ended.output
    assert "the process that read it died (SIGSEGV); it is damaged" in ended.output
    assert "/camera/color/image_raw" in ended.output or "bags      1 would be converted, 1 refused" in ended.output
