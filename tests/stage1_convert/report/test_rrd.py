"""The recording of an episode for Rerun holds what the dataset holds, read back by Rerun's own reader."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from stage1_convert.__main__ import main
from stage1_convert.dataset.record import read_record
from stage1_convert.report.rrd import write_recording
from tests.rrd import Rows, curve, read_entities
from tests.stage1_convert.recording import cell

JOINT = "elbow_joint"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rrd")
    recording = cell(seconds=2, size=(48, 64))
    del recording.images[20:22]  # lost by the camera: frames repeat the image before
    recording.write(folder / "src" / "bag")
    arguments = ["--src", str(folder / "src"), "--out", str(folder / "out"), "--rerun", str(folder / "episode.rrd")]
    assert main(arguments) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def entities(dataset: Path) -> dict[str, Rows]:
    return read_entities(dataset.parent / "episode.rrd")


def test_images_are_the_stored_files_with_their_source_stamps(dataset: Path, entities: dict[str, Rows]) -> None:
    opened, rows = Dataset.open(dataset), entities["/cameras/color"]
    files = list(opened.encoded_images(opened.episodes[0], "color"))
    stamps = pq.read_table(dataset / "meta/sync/chunk-000/file-000.parquet").column("color.stamp_ns").to_pylist()
    assert [bytes(rows[frame]["blob"]) for frame in range(len(rows))] == files
    assert [rows[frame]["stamp"].value for frame in range(len(rows))] == stamps
    assert {row["media_type"] for row in rows.values()} == {"image/jpeg"}


def test_curves_are_the_columns(dataset: Path, entities: dict[str, Rows]) -> None:
    table, opened = pq.read_table(dataset / "data/chunk-000/file-000.parquet"), Dataset.open(dataset)
    joint = opened.joint_names.index(JOINT)
    for entity, column in (("state", "observation.state"), ("action", "action")):
        values = np.array(table.column(column).to_pylist())[:, joint]
        assert np.array_equal(curve(entities[f"/{entity}/{JOINT}"]), values)


def test_ages_and_repeated_images_are_those_of_the_record(dataset: Path, entities: dict[str, Rows]) -> None:
    record = read_record(dataset)
    assert record is not None
    entry = record.bags[0].episodes[0]
    assert entry.repeated["color"] > 0
    for stream in ("joints", "color"):
        assert curve(entities[f"/repeated/{stream}"]).sum() == entry.repeated[stream]
        assert round(float(curve(entities[f"/age_ms/{stream}"]).max()), 3) == entry.age_ms[stream].max


def test_an_episode_that_does_not_exist_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rerun-episode 5: the dataset has episodes 0 to 0"):
        write_recording(tmp_path / "x.rrd", dataset, 5)
    assert not (tmp_path / "x.rrd").exists()
