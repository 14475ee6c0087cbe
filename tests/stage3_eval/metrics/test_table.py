"""A state may have more values than there are joints, and a table says what its columns hold."""

import json
from typing import Any

import numpy as np

from stage3_eval.metrics.table import COLUMNS, METADATA_KEY, episode_table
from tests.stage3_eval.summaries import make_summary

STATES, JOINTS = ["pan", "lift", "grip"], ["pan", "lift"]
HEADER = make_summary([1.0], joint_names=JOINTS)


def test_values_are_in_the_column_of_their_joint_and_the_schema_documents_the_columns() -> None:
    rows: dict[str, Any] = {
        "episode_index": np.array([3, 3]),
        "frame_index": np.array([0, 1]),
        "timestamp": np.array([0, 1 / 30], np.float32),
        "observation.state": np.array([[1, 2, 3], [4, 5, 6]], np.float64),
        "action": np.array([[0.5, 1], [1.5, 2]], np.float32),
    }
    predicted_TA = np.array([[1, 0], [1, 2]], np.float32)
    table = episode_table(rows, predicted_TA, np.array([np.nan, 0.25]), STATES, HEADER)
    assert table["joint_position_grip"].to_pylist() == [3, 6]
    assert table["predicted_action_pan"].to_pylist() == [1, 1]
    assert table["gt_action_lift"].to_pylist() == [1, 2]
    assert json.loads(table.schema.metadata[METADATA_KEY])["columns"] == COLUMNS
    assert all(any(field.name.startswith(prefix) for prefix in COLUMNS) for field in table.schema)
