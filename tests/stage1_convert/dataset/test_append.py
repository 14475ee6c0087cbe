"""Datasets of anybody, joined: every row, image and task is there, numbered anew, and the statistics are of them all."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.storage.files import read_json, write_json
from stage1_convert.check import check
from stage1_convert.dataset.merge import merge
from stage1_convert.dataset.stats import image_stats, pooled, tally
from tests.conftest import GOLDEN
from tests.stage1_convert.conversion import report, rows, run
from tests.stage1_convert.recording import cell


@pytest.fixture(scope="module", params=["image", "video"])
def joined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset that LeRobot wrote, and itself appended to itself."""
    theirs, folder = GOLDEN / f"dataset_{request.param}", tmp_path_factory.mktemp("append")
    shutil.copytree(theirs, folder / "again")
    merge([theirs, folder / "again"], folder / "out")
    return theirs, folder / "out"


def test_all_rows_are_there_twice_and_numbered_anew(joined: tuple[Path, Path]) -> None:
    once, twice = (rows(root) for root in joined)
    count = len(once)
    assert list(twice["index"]) == list(range(2 * count))
    assert list(twice["episode_index"]) == [*once["episode_index"], *(once["episode_index"] + 2)]
    for key in once.columns.difference(["index", "episode_index"]):
        for at in (0, 25):
            np.testing.assert_array_equal(twice[key][at + count], once[key][at], err_msg=key)
    for key in ("observation.state", "action"):
        np.testing.assert_array_equal(np.stack(twice[key]), np.concatenate([np.stack(once[key])] * 2))


def test_every_image_is_the_one_that_it_was(joined: tuple[Path, Path]) -> None:
    once, twice = (Dataset.open(root) for root in joined)
    (camera,) = once.cameras
    for number, episode in enumerate(twice.episodes):
        images = zip(twice.images(episode, camera), once.images(once.episodes[number % 2], camera), strict=True)
        assert all(np.array_equal(one, two) for one, two in images)


def test_tasks_are_joined_by_their_words_and_statistics_are_those_of_twice_the_same(joined: tuple[Path, Path]) -> None:
    once, twice = joined
    tasks = [pd.read_parquet(root / "meta/tasks.parquet") for root in joined]
    assert list(tasks[0].index) == list(tasks[1].index)
    ours, theirs = Dataset.open(twice).stats, Dataset.open(once).stats
    for key in ("action", "observation.images.color"):
        assert ours[key]["count"] == 2 * theirs[key]["count"]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(ours[key][name], theirs[key][name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_result_is_a_sound_dataset(joined: tuple[Path, Path]) -> None:
    assert not check(joined[1]).faults


def test_conversions_with_different_settings_are_appended_with_their_records(tmp_path: Path) -> None:
    for seed, task in enumerate(["Push.", "Pull."]):
        cell(seed=seed, seconds=1.0, size=(16, 64)).write(tmp_path / f"src{seed}" / "bag")
        run(tmp_path / f"src{seed}", tmp_path / f"part{seed}", f"data.task={task}")
    merge([tmp_path / "part1", tmp_path / "part0"], tmp_path / "out")
    dataset, parts = Dataset.open(tmp_path / "out"), [Dataset.open(tmp_path / f"part{n}") for n in (1, 0)]
    assert list(pd.read_parquet(tmp_path / "out/meta/tasks.parquet").index) == ["Pull.", "Push."]
    pixels = [p for d in parts for e in d.episodes for p in d.images(e, "color")]
    np.testing.assert_allclose(
        dataset.stats["observation.images.color"]["mean"].ravel(), np.stack(pixels).reshape(-1, 3).mean(0) / 255
    )
    record = report(tmp_path / "out")
    assert [part["conversion"]["config"]["data"]["task"] for part in record["merged"]] == ["Pull.", "Push."]
    assert [bag["episodes"][0]["episode_index"] for bag in record["bags"]] == [0, 1]
    assert not check(tmp_path / "out").faults


@pytest.mark.parametrize(
    ("key", "value", "words"), [("fps", 15, "15 fps"), ("features.action.info", {"action_meaning": "delta"}, "action")]
)
def test_datasets_that_do_not_fit_are_refused(tmp_path: Path, key: str, value: object, words: str) -> None:
    shutil.copytree(GOLDEN / "dataset_image", tmp_path / "other")
    info = read_json(tmp_path / "other/meta/info.json")
    place = info
    *parents, last = key.split(".")
    for name in parents:
        place = place[name]
    place[last] = value
    write_json(tmp_path / "other/meta/info.json", info)
    with pytest.raises(UserError, match=words):
        merge([GOLDEN / "dataset_image", tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("action", [float("nan")] * 6, "episode 0 holds a value of action that is no finite number"),
        ("observation.images.color", {"bytes": b"no image", "path": None}, "camera color, episode 0, frame 0: "),
    ],
)
def test_a_damaged_cell_that_is_met_is_named(tmp_path: Path, key: str, value: object, words: str) -> None:
    other = shutil.copytree(GOLDEN / "dataset_image", tmp_path / "other")
    (path,) = other.glob("data/*/*.parquet")
    table = pq.read_table(path)
    at, column = table.schema.get_field_index(key), table.column(key).to_pylist()
    changed = pa.array([value, *column[1:]], table.schema.field(key).type)
    pq.write_table(table.set_column(at, table.schema.field(key), changed), path)
    with pytest.raises(UserError, match=words):
        merge([other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pooled_statistics_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    films = [rng.integers(low, 200 + low, (frames, 8, 8, 3), dtype=np.uint8) for low, frames in ((0, 3), (50, 5))]
    tallies = [np.sum([tally(image) for image in film], axis=0) for film in films]
    found = pooled([image_stats(part, len(film)) for part, film in zip(tallies, films, strict=True)])
    pixels = np.concatenate(films).reshape(-1, 3) / 255
    assert found["count"] == [8]
    for name, right in {
        "min": pixels.min(0),
        "max": pixels.max(0),
        "mean": pixels.mean(0),
        "std": pixels.std(0),
    }.items():
        np.testing.assert_allclose(np.ravel(found[name]), right, atol=1e-12, err_msg=name)
