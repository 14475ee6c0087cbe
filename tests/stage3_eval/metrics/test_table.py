"""The parquet table has exactly the columns, types and metadata that its readers rely on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE
from stage3_eval.metrics.table import COLUMNS, METADATA_KEY, episode_table
from stage3_eval.recording import read_rows
from tests.common.lerobot.foreign import change_info
from tests.stage3_eval.summaries import make_summary

STATES, JOINTS = ["pan", "lift", "grip"], ["pan", "lift"]
HEADER = make_summary([1.0], joint_names=JOINTS)


@pytest.fixture
def table() -> pa.Table:
    rows: dict[str, Any] = {
        "episode_index": np.array([3, 3]),
        "frame_index": np.array([0, 1]),
        "timestamp": np.array([0, 1 / 30], np.float32),
        "observation.state": np.array([[1, 2, 3], [4, 5, 6]], np.float64),
        "action": np.array([[0.5, 1], [1.5, 2]], np.float32),
    }
    predicted_TA = np.array([[1, 0], [1, 2]], np.float32)
    return episode_table(rows, predicted_TA, np.array([np.nan, 0.25]), STATES, HEADER)


def test_values_are_in_the_column_of_their_joint(table: pa.Table) -> None:
    assert table["joint_position_grip"].to_pylist() == [3, 6]
    assert table["predicted_action_pan"].to_pylist() == [1, 1]
    assert table["gt_action_lift"].to_pylist() == [1, 2]
    assert table["abs_error_pan"].to_pylist() == [0.5, 0.5]
    assert table["episode_index"].to_pylist() == [3, 3]


def test_a_frame_that_was_not_timed_has_null(table: pa.Table) -> None:
    assert table["inference_time_s"].to_pylist() == [None, 0.25]


def test_the_schema_documents_its_columns(table: pa.Table) -> None:
    metadata = json.loads(table.schema.metadata[METADATA_KEY])
    assert metadata["columns"] == COLUMNS
    assert (metadata["units"], metadata["joint_names"]) == ("rad", JOINTS)
    assert not {"training", "evaluation"} & metadata.keys()
    assert all(any(field.name.startswith(prefix) for prefix in COLUMNS) for field in table.schema)


def test_names_given_twice_give_every_joint_a_column_of_its_own(image_dataset: Path) -> None:
    names = ["a", "b", "gripper", "d", "e", "gripper"]
    change_info(image_dataset, lambda info: [info["features"][key].update(names=names) for key in (STATE, ACTION)])
    dataset = Dataset.open(image_dataset)
    episode = dataset.episodes[1]
    rows = read_rows(dataset, episode, [STATE, ACTION, "episode_index", "frame_index", "timestamp"])
    header = make_summary([1.0], joint_names=list(dataset.joint_names))
    predicted_TA, latency_T_s = rows[ACTION] + np.arange(6, dtype=np.float32), np.zeros(episode.length)
    table = episode_table(rows, predicted_TA, latency_T_s, dataset.joint_names, header)
    assert len(set(table.column_names)) == len(table.column_names) == 3 + 4 * 6 + 1
    for place, name in ((2, "gripper"), (5, "gripper_2")):
        for prefix, values_TN in (("gt_action_", rows[ACTION]), ("joint_position_", rows[STATE])):
            np.testing.assert_array_equal(table[prefix + name].to_numpy(), values_TN[:, place])
        np.testing.assert_allclose(table[f"abs_error_{name}"].to_numpy(), place, atol=1e-5)
