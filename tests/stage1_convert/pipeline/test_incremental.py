"""The dataset depends on the bags and the settings, and on nothing else: not on how it was divided, or what was lost."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from common.cli.command import UserError
from common.cli.config import load
from common.storage.files import write_json
from stage1_convert.__main__ import main
from stage1_convert.config import Config
from stage1_convert.dataset.episode_file import read_offset
from stage1_convert.dataset.record import RECORD_PATH
from stage1_convert.pipeline import cache
from stage1_convert.pipeline.cache import locked_cache
from stage1_convert.pipeline.convert import Options, convert
from stage1_convert.pipeline.merge import merge
from stage1_convert.report.page import PAGE
from stage1_convert.sources.folder import LocalBags
from tests.conftest import GOLDEN
from tests.stage1_convert.conversion import report, rows, run, tree
from tests.stage1_convert.recording import cell

pytestmark = pytest.mark.integration

TASKS = ["data.task_from=folder", "data.task_pattern=([abc])"]  # three, and data.task for d


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bags, of which the second has two episodes."""
    folder = tmp_path_factory.mktemp("bags")
    for seed, name in enumerate("abcd"):
        recording = cell(seed=seed, seconds=2.5 if name == "b" else 1.0, size=(16, 64))
        if name == "b":
            del recording.images[30:40]
        recording.write(folder / name, "sqlite3" if seed % 2 else "mcap")
    return folder


@pytest.fixture(scope="module")
def whole(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four bags converted from scratch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(bags, out)
    return out


def copied(bags: Path, target: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(bags / name, target / name)
    return target


def test_bags_that_another_version_converted_are_converted_again(
    bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bags, tmp_path / "out")
    assert run(bags, tmp_path / "out").reused == 4
    monkeypatch.setattr(cache, "CONVERSION_VERSION", cache.CONVERSION_VERSION + 1)
    assert run(bags, tmp_path / "out").reused == 0
    assert report(tmp_path / "out")["tool"]["conversion"] == str(cache.CONVERSION_VERSION)


def test_rows_that_are_still_in_a_log_are_part_of_a_bag(tmp_path: Path) -> None:
    bag = cell(seconds=1.0, size=(16, 64)).write(tmp_path / "src" / "bag", "sqlite3")
    run(tmp_path / "src", tmp_path / "out")
    recorder = sqlite3.connect(bag / "bag.db3")
    recorder.execute("PRAGMA journal_mode=WAL")
    run(tmp_path / "src", tmp_path / "out")
    recorder.execute("DELETE FROM messages WHERE timestamp > (SELECT MIN(timestamp) + 700000000 FROM messages)")
    recorder.commit()
    assert run(tmp_path / "src", tmp_path / "out").reused == 0
    run(tmp_path / "src", tmp_path / "from scratch")
    recorder.close()
    assert len(rows(tmp_path / "out")) == len(rows(tmp_path / "from scratch")) < 25


def test_a_file_of_the_dataset_that_lost_rows_is_made_again(bags: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out/data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    assert run(bags, tmp_path / "out").reused == 3
    assert tree(tmp_path / "out") == tree(whole)


def shards(src: Path, folder: Path, count: int, *settings: str) -> list[Path]:
    """Convert so many shards, each a dataset of its own."""
    outs = [folder / f"{part} of {count}" for part in range(1, count + 1)]
    for part, out in enumerate(outs, 1):
        convert(LocalBags(src), out, load(Config, None, settings), Options(shard=(part, count)))
    return outs


@pytest.mark.parametrize("count", [2, 3])
def test_shards_join_to_the_dataset_that_one_conversion_gives(bags: Path, tmp_path: Path, count: int) -> None:
    run(bags, tmp_path / "whole", *TASKS)
    parts = shards(bags, tmp_path, count, *TASKS)
    assert merge(parts[::-1], tmp_path / "out").episodes == 5
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert run(bags, tmp_path / "out", *TASKS).reused == 4, "it is brought up to date like any other"
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_joined_dataset_names_the_versions_that_made_its_rows(bags: Path, tmp_path: Path) -> None:
    parts = shards(bags, tmp_path, 2)
    for out in parts:
        record = report(out)
        write_json(out / RECORD_PATH, {**record, "tool": {**record["tool"], "numpy": "1.26.0"}})
    merge(parts, tmp_path / "out")
    assert report(tmp_path / "out")["tool"]["numpy"] == "1.26.0"


def test_shards_whose_bags_are_refused_or_that_have_none_join_as_well(bags: Path, tmp_path: Path) -> None:
    src = copied(bags, tmp_path / "src", "a", "c")
    cell(seconds=0.1).write(src / "b")
    (src / "d.mcap").write_bytes(b"no bag")
    run(src, tmp_path / "whole")
    parts = [tmp_path / f"part{part}" for part in range(1, 6)]
    for part, out in enumerate(parts, 1):
        assert main(["--src", str(src), "--out", str(out), "--shard", f"{part}/5", "--workers", "1"]) == 0
    assert [(out / "meta" / "info.json").exists() for out in parts] == [True, False, True, False, False]
    assert merge(parts, tmp_path / "out").refused == run(src, tmp_path / "whole").refused
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_is_no_shard_of_the_same_conversion_is_refused(bags: Path, tmp_path: Path) -> None:
    first, *_, fifth, sixth = shards(bags, tmp_path, 6)
    other = shards(bags, tmp_path / "other", 2, "data.task=Something else.")[1]
    for datasets, words in (
        ((first, other), "were converted with another `config`"),
        ((first, GOLDEN / "dataset_image"), "dataset_image holds no meta/conversion.json"),
        ((first, shutil.copytree(first, tmp_path / "copy")), "both hold bag a"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            merge(datasets, tmp_path / "out")
        assert "lerobot-edit-dataset --operation.type merge" in str(caught.value)
    with pytest.raises(UserError, match="none of the 0 bags"):
        merge([fifth, sixth], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_chosen_episodes_convert_their_bag_again_and_no_other(bags: Path, whole: Path, tmp_path: Path) -> None:
    out, second_only = tmp_path / "out", "data.episodes={b: [1]}"
    run(bags, out)
    assert run(bags, out, second_only).reused == 3
    lengths = {bag["bag"]: [episode["frames"] for episode in bag["episodes"]] for bag in report(whole)["bags"]}
    (chosen,) = (bag for bag in report(out)["bags"] if bag["bag"] == "b")
    assert [episode["frames"] for episode in chosen["episodes"]] == lengths["b"][1:]
    assert [span["frames"] for span in chosen["left_out"] if span["reason"] == "not_chosen"] == lengths["b"][:1]
    assert "episode 1 of bag b" in (out / PAGE).read_text()
    run(bags, tmp_path / "from scratch", second_only)
    assert tree(out) == tree(tmp_path / "from scratch")
    assert run(bags, out).reused == 3
    assert tree(out) == tree(whole)


def test_episodes_that_are_not_there_are_named(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.episodes\.bb: there is no such bag among the 4; there is b$"):
        run(bags, tmp_path / "out", "data.episodes={bb: [0]}")
    refused = run(bags, tmp_path / "out", "data.episodes={b: [2]}").refused
    assert refused == [("b", "data.episodes asks for its episode 2; it has 0 to 1")]


def test_the_same_recording_under_two_names_is_reported(bags: Path, tmp_path: Path) -> None:
    src = copied(bags, tmp_path / "src", "a", "c")
    shutil.copytree(bags / "a", src / "again")
    run(src, tmp_path / "out", workers=2)
    first, second, _ = report(tmp_path / "out")["bags"]
    found = rows(tmp_path / "out")
    assert found["index"].tolist() == list(range(len(found)))
    assert found["episode_index"].drop_duplicates().tolist() == [0, 1, 2]
    assert (first["warnings"], second["key"]) == ([], first["key"])
    assert second["warnings"] == ["holds the same recording as bag a: its episodes are in the dataset twice"]
    shutil.rmtree(src / "a")
    run(src, tmp_path / "out")
    run(src, tmp_path / "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_rows_are_written_under_the_numbers_that_they_keep(bags: Path, tmp_path: Path) -> None:
    src = copied(bags, tmp_path / "src", *"abcd")
    (src / "z.mcap").touch()
    with pytest.raises(UserError, match="1 of 5 bags are refused and --strict"):  # which leaves the converted bags
        run(src, tmp_path / "out", *TASKS, strict=True)
    found = sorted(read_offset(path) for path in cache.cache_path(tmp_path / "out").glob("*/[0-9][0-9][0-9].parquet"))
    run(src, tmp_path / "out", *TASKS)
    groups = rows(tmp_path / "out").groupby("episode_index")
    assert found == [(number, group["index"].min(), group["task_index"].min()) for number, group in groups]
    assert [offset.task_index for offset in found] == [0, 1, 1, 2, 3]


def test_rows_that_a_process_was_renumbering_when_it_was_stopped_take_no_room(tmp_path: Path) -> None:
    bag = tmp_path / ".out.parts" / "bag"
    bag.mkdir(parents=True)
    (bag / cache.RECORD).touch()
    killed = bag / f".tmp-000.parquet-{2**22 + 1}"  # no process has such a number
    killed.write_bytes(b"rows")
    with pytest.raises(KeyboardInterrupt), locked_cache(tmp_path / "out"):
        assert not killed.exists()
        (bag / f".tmp-000.parquet-{os.getppid()}").write_bytes(b"rows")
        raise KeyboardInterrupt
    assert [path.name for path in bag.iterdir()] == [cache.RECORD]


def test_two_conversions_to_one_dataset_cannot_mix(bags: Path, tmp_path: Path) -> None:
    with locked_cache(tmp_path / "out"), pytest.raises(UserError, match="another conversion to --out"):
        run(bags, tmp_path / "out")
