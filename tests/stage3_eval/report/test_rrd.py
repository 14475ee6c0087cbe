"""The recording of an evaluation for Rerun holds its tables, read back by Rerun's own reader."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.images import decode_image
from common.policy import Policy
from stage3_eval.__main__ import main
from tests.conftest import GOLDEN
from tests.rrd import Rows, curve, read_entities

DATASET = GOLDEN / "dataset_image"


@pytest.fixture(scope="module")
def evaluation(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rrd")
    flags = ["--checkpoint", checkpoint, "--dataset", DATASET, "--out", folder / "out", "--episodes", 0, 1]
    assert main([str(flag) for flag in (*flags, "--rerun", folder / "eval.rrd", "--attention", 1)]) == 0
    return folder


@pytest.fixture(scope="module")
def entities(evaluation: Path) -> dict[str, Rows]:
    return read_entities(evaluation / "eval.rrd")


def test_curves_are_the_columns_of_the_tables(evaluation: Path, entities: dict[str, Rows]) -> None:
    for episode in (0, 1):
        table = pq.read_table(evaluation / "out" / f"episode_{episode:03d}.parquet")
        for joint in Dataset.open(DATASET).joint_names:
            for entity, column in (
                ("recorded", "gt_action"),
                ("predicted", "predicted_action"),
                ("error", "abs_error"),
            ):
                values = curve(entities[f"/episode_{episode:03d}/joints/{joint}/{entity}"])
                assert np.allclose(values, table.column(f"{column}_{joint}").to_numpy(), rtol=1e-6)


def test_a_chunk_begins_at_its_moment_and_is_what_the_policy_predicts_there(
    checkpoint: Path, entities: dict[str, Rows]
) -> None:
    policy, dataset = Policy.load(checkpoint, device="cpu"), Dataset.open(DATASET)
    episode, joint = dataset.episodes[0], dataset.joint_names[0]
    prefix = f"/episode_000/joints/{joint}/chunk_"
    chunks = {int(name.removeprefix(prefix)): rows for name, rows in entities.items() if name.startswith(prefix)}
    frame = sorted(chunks)[1]
    assert min(chunks[frame]) == frame
    state = pq.read_table(dataset.rows_path(episode)).column("observation.state").to_pylist()[frame]
    images = {
        f"observation.images.{camera}": list(dataset.images(episode, camera))[frame][None] for camera in dataset.cameras
    }
    predicted = policy.predict_chunk({"observation.state": np.array([state], np.float32), **images})
    shown = curve(chunks[frame])
    assert np.allclose(shown, predicted[0, : len(shown), 0], atol=1e-5)


def test_cameras_show_every_frame_and_attention_only_the_worst(entities: dict[str, Rows]) -> None:
    dataset = Dataset.open(DATASET)
    for episode in dataset.episodes[:2]:
        for camera in dataset.cameras:
            rows = entities[f"/episode_{episode.number:03d}/cameras/{camera}"]
            assert sorted(rows) == list(range(episode.length))
            image = decode_image(bytes(rows[0]["blob"])).astype(int)
            stored = next(dataset.images(episode, camera)).astype(int)
            assert np.abs(image - stored).mean() < 6  # JPEG of a PNG
            assert len(entities[f"/episode_{episode.number:03d}/attention/{camera}"]) == 1


def test_a_finished_evaluation_has_no_chunks_to_show(checkpoint: Path, evaluation: Path, tmp_path: Path) -> None:
    flags = ["--checkpoint", checkpoint, "--dataset", DATASET, "--out", evaluation / "out", "--episodes", 0, 1]
    with pytest.raises(UserError, match=r"--rerun: the evaluation in .* is finished.*choose another --out"):
        main([str(flag) for flag in (*flags, "--attention", 1, "--rerun", tmp_path / "again.rrd")])
