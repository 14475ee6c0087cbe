"""Which folders and files below --src are bags, and what they are called."""

import itertools
import shutil
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage1_convert.sources.folder import find_bags
from tests.stage1_convert.conversion import report, run, tree
from tests.stage1_convert.recording import MS, Recording, Storage, cell


def test_bags_are_found_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    cell(seconds=0.1).write(tmp_path / "b" / "c" / "one")
    cell(seconds=0.1).write(tmp_path / "a" / "two")
    cell(seconds=0.1).write(tmp_path / "a-1")
    bare = cell(seconds=0.1).write(tmp_path / "elsewhere") / "elsewhere.mcap"
    shutil.copy(bare, tmp_path / "a" / "bare.mcap")
    shutil.copy(bare, tmp_path / "a" / ".hidden.mcap")
    (tmp_path / "b" / "metadata.yaml").write_text("title: holiday images")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    assert [source.name for source in find_bags(tmp_path)] == ["a-1", "a/bare.mcap", "a/two", "b/c/one", "elsewhere"]


def parts_of(recording: Recording, folder: Path, storage: Storage, cuts: list[int], pause_ns: int = 0) -> Path:
    """Write a recording as the parts take_0, take_1, ... of a recorder that was killed, cut at these images."""
    for number, (first, last) in enumerate(itertools.pairwise([0, *cuts, len(recording.images)])):
        begin_ns, end_ns = (
            recording.images[at].receive_ns if at else 0 for at in (first, last % len(recording.images))
        )
        joints = [s for s in recording.joints if begin_ns <= s.receive_ns < (end_ns or 1 << 62)]
        part = Recording(joints, recording.images[first:last])
        for said in (part.joints, part.images):
            said[:] = [s._replace(receive_ns=s.receive_ns + number * pause_ns) for s in said]
        whole = part.write(folder.parent / f"part{number}", storage)
        (file,) = [path for path in whole.iterdir() if path.name != "metadata.yaml"]
        folder.mkdir(exist_ok=True)
        file.rename(folder / f"take_{number}{file.suffix}")
        shutil.rmtree(whole)
    return folder


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("killed", [False, True])
def test_parts_without_metadata_are_one_bag(tmp_path: Path, storage: Storage, killed: bool) -> None:
    cuts = [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 42]  # take_10 sorts before take_2
    parts = parts_of(cell(), tmp_path / "src" / "take", storage, cuts)
    if killed and storage == "mcap":
        last = parts / "take_11.mcap"
        last.write_bytes(last.read_bytes()[:-400])
    assert [source.name for source in find_bags(tmp_path / "src")] == ["take"]
    run(tmp_path / "src", tmp_path / "out", "data.time_source=header")
    (bag,) = report(tmp_path / "out")["bags"]
    assert bag["warnings"][0] == "metadata.yaml is missing: files whose names and times follow each other were joined"
    cell().write(tmp_path / "whole" / "take", storage)
    run(tmp_path / "whole", tmp_path / "expected", "data.time_source=header")
    assert tree(tmp_path / "out" / "data") == tree(tmp_path / "expected" / "data")


@pytest.mark.parametrize("change", ["pause", "hole", "name", "order", "damage"])
def test_files_that_do_not_clearly_follow_each_other_are_separate_bags(tmp_path: Path, change: str) -> None:
    folder = parts_of(cell(), tmp_path / "src", "mcap", [15, 30], 1_100 * MS if change == "pause" else 0)
    names = {f"take_{number}.mcap": f"take_{number}.mcap" for number in range(3)}
    names |= {"hole": {"take_2.mcap": "take_3.mcap"}, "name": {"take_2.mcap": "shot_2.mcap"}}.get(change, {})
    if change == "order":
        names = {"take_0.mcap": "take_1.mcap", "take_1.mcap": "take_0.mcap", "take_2.mcap": "take_2.mcap"}
    for name in names:
        (folder / name).rename(tmp_path / name)
    for old, new in names.items():
        (tmp_path / old).rename(folder / new)
    if change == "damage":
        (folder / "take_1.mcap").write_bytes(b"no bag")
    assert [source.name for source in find_bags(folder)] == sorted(names.values())


def test_a_bag_given_as_the_source_is_named_after_itself(tmp_path: Path) -> None:
    cell(seconds=0.1).write(tmp_path / "episode_7")
    assert find_bags(tmp_path / "episode_7") == [("episode_7", tmp_path / "episode_7")]
    assert find_bags(tmp_path / "episode_7" / "episode_7.mcap") == [
        ("episode_7.mcap", tmp_path / "episode_7" / "episode_7.mcap")
    ]


def test_what_is_no_bag_is_named_without_the_flag_that_only_one_of_the_commands_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/nowhere is not a folder and not a bag"):
        find_bags(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"^no bag in {tmp_path}: expected"):
        find_bags(tmp_path)
