"""Which folders and files below --src are bags, and what they are called."""

import shutil
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage1_convert.sources.folder import find_bags
from tests.stage1_convert.recording import cell


def test_bags_are_found_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    cell(seconds=0.1).write(tmp_path / "b" / "c" / "one")
    cell(seconds=0.1).write(tmp_path / "a" / "two")
    cell(seconds=0.1).write(tmp_path / "a-1")
    bare = cell(seconds=0.1).write(tmp_path / "elsewhere") / "elsewhere.mcap"
    for name in ("take_0.mcap", "take_1.mcap", ".hidden.mcap"):
        shutil.copy(bare, tmp_path / "a" / name)
    (tmp_path / "b" / "metadata.yaml").write_text("title: holiday images")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    names = ["a-1", "a/take_0.mcap", "a/take_1.mcap", "a/two", "b/c/one", "elsewhere"]
    assert [source.name for source in find_bags(tmp_path)] == names


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
