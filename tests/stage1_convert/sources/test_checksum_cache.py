"""What is remembered of bags is theirs, and is lost without harm."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from stage1_convert.sources import checksum_cache
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.folder import LocalBags
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import cell


def remembered(path: Path, **of: str) -> ChecksumCache:
    """Note the sha256 of bags by their names in the file at `path`."""
    cache = ChecksumCache(path)
    for name, version in of.items():
        cache.put([name], [version, "etag"], {"a.mcap": f"{name} {version}"})
    cache.save()
    return cache


def test_the_newest_version_of_each_bag_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sums.json"
    remembered(path, other="0")
    for version in "123":
        remembered(path, one=version)
    known = ChecksumCache(path)
    assert known.get(["one"], ["3", "etag"]) == {"a.mcap": "one 3"}
    assert known.get(["one"], ["2", "etag"]) is None
    assert known.get(["other"], ["0", "etag"]) == {"a.mcap": "other 0"}


DAMAGED = [b"null", b'{"a":["b",{"c":5}]}', b"[" * 100_000]


@pytest.mark.parametrize("content", [None, *DAMAGED], ids=lambda text: text and text[:20])
def test_a_file_that_is_damaged_or_foreign_is_like_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sums.json"
    remembered(path, one="0")
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    assert ChecksumCache(path).get(["one"], ["0", "etag"]) is None
    remembered(path, two="0")
    assert ChecksumCache(path).get(["two"], ["0", "etag"]) == {"a.mcap": "two 0"}


def test_a_run_that_is_killed_forgets_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum_cache, "SAVE_PERIOD_S", 0.0)
    (tmp_path / ".tmp-sums.json-4194305").write_bytes(b"{")  # of a process that cannot be
    ChecksumCache(tmp_path / "sums.json").put(["one"], [0], {"a.mcap": "of one"})
    assert ChecksumCache(tmp_path / "sums.json").get(["one"], [0]) == {"a.mcap": "of one"}
    assert [path.name for path in tmp_path.iterdir()] == ["sums.json"]


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = remembered(tmp_path / "file" / "sums.json", one="0")
    assert cache.get(["one"], ["0", "etag"]) == {"a.mcap": "one 0"}  # for as long as this run takes
    assert ChecksumCache(tmp_path / "file" / "sums.json").get(["one"], ["0", "etag"]) is None


def known_sums(src: Path) -> dict[str, Mapping[str, str] | None]:
    """Return the sha256 that a run knows of each bag without reading it."""
    bags = LocalBags(src)
    return {bag.source.name: bag.sums for bag in bags.fetch(bags.bags, lambda _name, _sums: False)}


def test_bags_on_this_disk_are_known_until_a_file_of_theirs_changes(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    for seed, name in enumerate("abcd"):
        cell(seed=seed, seconds=0.8).write(src / name, "sqlite3" if seed % 2 else "mcap")
    run(src, out)
    recorded = {bag["bag"]: bag["sha256"] for bag in report(out)["bags"]}
    assert known_sums(src) == recorded
    file = next((src / "a").glob("*.mcap"))
    state = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # as rsync --times and tar do
    next((src / "b").glob("*.db3")).with_name(next((src / "b").glob("*.db3")).name + "-wal").write_bytes(b"rows")
    shutil.copytree(src / "c", tmp_path / "moved")
    shutil.rmtree(src / "c")
    (tmp_path / "moved").rename(src / "c")
    assert known_sums(src) == {**dict.fromkeys("abc"), "d": recorded["d"]}


def test_two_bags_of_the_same_size_and_time_that_change_names_are_not_known(tmp_path: Path) -> None:
    src = tmp_path / "src"
    files = [src / name / "bag_0.mcap" for name in "ab"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(file.parent.name.encode())
    for _ in range(1000):  # until the clock does not tick between the two
        for file in files:
            os.utime(file, ns=(0, 0))
        if len({file.stat().st_ctime_ns for file in files}) == 1:
            break
    bags = LocalBags(src)
    for bag in list(bags.fetch(bags.bags, lambda _name, _sums: False)):
        bags.release(bag.source, {"bag_0.mcap": bag.source.name})
    bags.close()
    names = ["a/bag_0.mcap", "b/bag_0.mcap"]
    assert known_sums(src) == {name: {"bag_0.mcap": name} for name in names}
    for old, new in (("a", "other"), ("b", "a"), ("other", "b")):
        (src / old).rename(src / new)
    assert known_sums(src) == dict.fromkeys(names)


def test_a_bag_that_changes_while_it_is_converted_is_not_remembered(tmp_path: Path) -> None:
    cell(seconds=0.5).write(tmp_path / "src" / "bag")
    bags = LocalBags(tmp_path / "src")
    (bag,) = bags.fetch(bags.bags, lambda _name, _sums: False)
    next((tmp_path / "src" / "bag").glob("*.mcap")).touch()
    bags.release(bag.source, {"bag_0.mcap": "0" * 64})
    bags.close()
    assert known_sums(tmp_path / "src") == {"bag": None}
