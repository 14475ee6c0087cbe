"""What is remembered of bags is theirs, and is lost without harm."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from common.storage.disk import default_cache_dir
from common.storage.files import read_json
from stage1_convert.sources import checksum_cache
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.folder import CHECKSUMS, LocalBags
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


DAMAGED = [b"", b"null", b"[1]", b'{"a":["b",{"c":5}]}', b'{"a":["b"]}', b'{"a":["b",{"\xff":"c"}]}', b"[" * 100_000]


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


def known_sums(src: Path) -> list[Mapping[str, str] | None]:
    """Return the sha256 that a run knows of each bag."""
    bags = LocalBags(src)
    return [bag.sums for bag in bags.fetch(bags.bags, lambda _name, _sums: False)]


def known(src: Path) -> dict[str, bool]:
    """Return of every bag whether it will be read without computing its sha256, which must then be that of the record."""
    bags = LocalBags(src)
    found = {bag.source.name: bag.sums for bag in bags.fetch(bags.bags, lambda _name, _sums: False)}
    recorded = {bag["bag"]: bag["sha256"] for bag in report(src.with_name("out"))["bags"]}
    assert all(sums == recorded[name] for name, sums in found.items() if sums)
    return {name: sums is not None for name, sums in found.items()}


def test_bags_on_this_disk_are_known_until_a_file_of_theirs_changes(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    for seed, name in enumerate("abcd"):
        cell(seed=seed, seconds=0.8).write(src / name, "sqlite3" if seed % 2 else "mcap")
    run(src, out)
    assert known(src) == dict.fromkeys("abcd", True)
    file = next((src / "a").glob("*.mcap"))
    state = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # as rsync --times and tar do
    next((src / "b").glob("*.db3")).with_name(next((src / "b").glob("*.db3")).name + "-wal").write_bytes(b"rows")
    shutil.copytree(src / "c", tmp_path / "moved")
    shutil.rmtree(src / "c")
    (tmp_path / "moved").rename(src / "c")
    assert known(src) == {"a": False, "b": False, "c": False, "d": True}


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
    assert known_sums(src) == [{"bag_0.mcap": f"{name}/bag_0.mcap"} for name in "ab"]
    for old, new in (("a", "other"), ("b", "a"), ("other", "b")):
        (src / old).rename(src / new)
    assert known_sums(src) == [None, None]


def test_joined_bags_which_are_new_folders_each_time_are_not_remembered(tmp_path: Path) -> None:
    joints, images = cell(seconds=1.0), cell(seconds=1.0)
    joints.images, images.joints = [], []
    joints.write(tmp_path / "src" / "a_arm")
    images.write(tmp_path / "src" / "b_camera")
    cell(seconds=1.0).write(tmp_path / "src" / "c_alone")
    path = default_cache_dir() / CHECKSUMS
    before = len(read_json(path)) if path.exists() else 0
    for known in (False, True):
        bags = LocalBags(tmp_path / "src", join=True)
        found = list(bags.fetch(bags.bags, lambda _name, _sums: False))
        assert {bag.source.name: bag.sums is not None for bag in found} == {"a_arm+b_camera": False, "c_alone": known}
        for bag in found:
            bags.release(bag.source, {"bag_0.mcap": "0" * 64})
        bags.close()
    assert len(read_json(path)) == before + 1


def test_a_bag_that_changes_while_it_is_converted_is_not_remembered(tmp_path: Path) -> None:
    cell(seconds=0.5).write(tmp_path / "src" / "bag")
    bags = LocalBags(tmp_path / "src")
    (bag,) = bags.fetch(bags.bags, lambda _name, _sums: False)
    next((tmp_path / "src" / "bag").glob("*.mcap")).touch()
    bags.release(bag.source, {"bag_0.mcap": "0" * 64})
    bags.close()
    assert known_sums(tmp_path / "src") == [None]
