"""The dataset depends on the bags and the settings, and on nothing else: not on how it was divided, or what was lost."""

import shutil
from pathlib import Path

import pytest

from common.command import UserError
from common.config import load
from stage1_convert.config import Config
from stage1_convert.convert import Options, convert
from stage1_convert.merge import merge
from stage1_convert.supply import LocalBags
from tests.stage1_convert.conversion import report, run, tree
from tests.stage1_convert.recording import cell

TINY = {"seconds": 1.0, "size": (16, 64)}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bags, of which the second has two episodes."""
    folder = tmp_path_factory.mktemp("bags")
    for seed, name in enumerate("abcd"):
        recording = cell(seed=seed, seconds=2.5 if name == "b" else 1.0, size=(16, 64))
        if name == "b":
            del recording.pictures[30:40]
        recording.write(folder / name, "sqlite3" if seed % 2 else "mcap")
    return folder


@pytest.fixture(scope="module")
def whole(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four bags converted from scratch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(bags, out)
    return out


def shutil_copy(bags: Path, target: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(bags / name, target / name)
    return target


def test_a_file_of_the_dataset_that_lost_rows_is_made_again(bags: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out/data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    assert run(bags, tmp_path / "out").reused == 3
    assert tree(tmp_path / "out") == tree(whole)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_join_to_the_dataset_that_one_conversion_gives(
    bags: Path, whole: Path, tmp_path: Path, count: int
) -> None:
    for part in range(1, count + 1):
        convert(LocalBags(bags), tmp_path / f"part{part}", load(Config, None), Options(shard=(part, count)))
    parts = [tmp_path / f"part{part}" for part in range(count, 0, -1)]
    assert merge(parts, tmp_path / "out").episodes == 5
    assert tree(tmp_path / "out") == tree(whole)


def test_a_joined_dataset_is_brought_up_to_date_like_any_other(bags: Path, whole: Path, tmp_path: Path) -> None:
    for part in (1, 2):
        convert(LocalBags(bags), tmp_path / f"part{part}", load(Config, None), Options(shard=(part, 2)))
    merge([tmp_path / "part1", tmp_path / "part2"], tmp_path / "out")
    assert run(bags, tmp_path / "out").reused == 4
    assert tree(tmp_path / "out") == tree(whole)


def test_a_shard_without_bags_is_refused(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shard 5/9 is empty: there are 4 bags"):
        convert(LocalBags(bags), tmp_path / "out", load(Config, None), Options(shard=(5, 9)))


def test_the_same_recording_under_two_names_is_told(bags: Path, tmp_path: Path) -> None:
    src = shutil_copy(bags, tmp_path / "src", "a")
    shutil.copytree(bags / "a", src / "again")
    run(src, tmp_path / "out")
    first, second = report(tmp_path / "out")["bags"]
    assert (first["warnings"], second["key"]) == ([], first["key"])
    assert second["warnings"] == ["holds the same recording as bag a: its episodes are in the dataset twice"]
    shutil.rmtree(src / "a")
    run(src, tmp_path / "out")
    run(src, tmp_path / "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_two_conversions_to_one_dataset_cannot_mix(bags: Path, tmp_path: Path) -> None:
    from stage1_convert.parts import parts_folder

    with parts_folder(tmp_path / "out"), pytest.raises(UserError, match="another conversion to --out"):
        run(bags, tmp_path / "out")
