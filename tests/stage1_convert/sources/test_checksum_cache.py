"""What is remembered of bags is theirs, is lost without harm, and does not grow."""

import os
import shutil
from pathlib import Path

from common.storage.disk import default_cache_dir
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.folder import CHECKSUMS, LocalBags
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import cell


def test_a_file_takes_about_as_many_lines_as_there_are_bags(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sums.jsonl"
    ChecksumCache(path).put(["other"], [0], {"a.mcap": "of other"})
    for version in range(9):
        ChecksumCache(path).put(["one"], [version, "etag"], {"a.mcap": f"of {version}"})
        assert path.read_bytes().count(b"[") <= 5
    known = ChecksumCache(path)
    assert known.get(["one"], [8, "etag"]) == {"a.mcap": "of 8"}
    assert known.get(["one"], [7, "etag"]) is None
    assert known.get(["other"], [0]) == {"a.mcap": "of other"}


def test_a_line_that_was_cut_off_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    for name in ("one", "two"):
        ChecksumCache(path).put([name], [0], {"a.mcap": name})
    path.write_bytes(path.read_bytes()[:-20])
    ChecksumCache(path).put(["three"], [0], {"a.mcap": "three"})
    known = ChecksumCache(path)
    assert [known.get([name], [0]) for name in ("one", "two", "three")] == [
        {"a.mcap": "one"},
        None,
        {"a.mcap": "three"},
    ]


def test_a_line_of_another_shape_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    shapes = [b"[[1],2,{}]", b'[{"a":1},"b",{}]', b'["a","b",{"c":5}]', b'["a","b",[[[1],2]]]', b"[" * 100_000, b"null"]
    path.write_bytes(b"\n".join(shapes) + b"\n")
    ChecksumCache(path).put(["one"], [0], {"a.mcap": "of one"})
    assert ChecksumCache(path).get(["one"], [0]) == {"a.mcap": "of one"}


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ChecksumCache(tmp_path / "file" / "sums.jsonl")
    cache.put(["one"], [0], {"a.mcap": "of one"})
    assert cache.get(["one"], [0]) == {"a.mcap": "of one"}  # for as long as this run takes
    assert ChecksumCache(tmp_path / "file" / "sums.jsonl").get(["one"], [0]) is None


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
    for old, new in (("a", "other"), ("b", "a"), ("other", "b")):
        (src / old).rename(src / new)
    bags = LocalBags(src)
    assert [bag.sums for bag in bags.fetch(bags.bags, lambda _name, _sums: False)] == [None, None]


def test_of_joined_bags_which_are_new_folders_each_time_no_line_is_written(tmp_path: Path) -> None:
    joints, images = cell(seconds=1.0), cell(seconds=1.0)
    joints.images, images.joints = [], []
    joints.write(tmp_path / "src" / "a_arm")
    images.write(tmp_path / "src" / "b_camera")
    cell(seconds=1.0).write(tmp_path / "src" / "c_alone")
    path = default_cache_dir() / CHECKSUMS
    before = path.read_bytes() if path.exists() else b""
    for known in (False, True):
        bags = LocalBags(tmp_path / "src", join=True)
        found = list(bags.fetch(bags.bags, lambda _name, _sums: False))
        assert {bag.source.name: bag.sums is not None for bag in found} == {"a_arm+b_camera": False, "c_alone": known}
        for bag in found:
            bags.release(bag.source, {"bag_0.mcap": "0" * 64})
    assert path.read_bytes().removeprefix(before).count(b"[") == 1


def test_a_bag_that_changes_while_it_is_converted_is_not_remembered(tmp_path: Path) -> None:
    cell(seconds=0.5).write(tmp_path / "src" / "bag")
    bags = LocalBags(tmp_path / "src")
    (bag,) = bags.fetch(bags.bags, lambda _name, _sums: False)
    next((tmp_path / "src" / "bag").glob("*.mcap")).touch()
    bags.release(bag.source, {"bag_0.mcap": "0" * 64})
    (again,) = LocalBags(tmp_path / "src").fetch(bags.bags, lambda _name, _sums: False)
    assert again.sums is None
