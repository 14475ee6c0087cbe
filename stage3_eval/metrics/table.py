"""The parquet table of one episode: columns, types, and a schema that documents them. Pure.

Letters in array names: T frames of the episode, A action dimensions.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stage3_eval.metrics.summary import Header

METADATA_KEY = b"stage3_eval"
# A name that ends in _ is followed by the name of a joint in the dataset.
COLUMNS = {
    "episode_index": "number of the episode in the dataset",
    "frame_index": "number of the frame in the episode",
    "timestamp": "the dataset's, in seconds since the episode's first frame",
    "joint_position_": "recorded observation.state",
    "predicted_action_": "open_loop: step 0 of the chunk predicted from this frame; queue: the action executed at this frame",
    "gt_action_": "recorded action",
    "abs_error_": "|predicted_action - gt_action|",
    "inference_time_s": "seconds of a warm prediction with batch size 1 from this frame; null: this frame was not timed, "
    "or its action came from the queue",
}


def episode_table(
    rows: Mapping[str, npt.NDArray[Any]],
    predicted_TA: npt.NDArray[np.float32],
    latency_T_s: npt.NDArray[np.float64],
    state_names: Sequence[str],
    header: Header,
) -> pa.Table:
    """Build the table of one episode, a row per frame.

    `rows` holds the columns of the dataset by name; NaN in `latency_T_s` becomes null. `header` goes into the metadata of the
    schema as JSON, with the meaning of every column.
    """
    joints = header.joint_names
    recorded_TA = rows["action"].astype(np.float32)
    columns: dict[str, pa.Array] = {
        "episode_index": pa.array(rows["episode_index"], pa.int64()),
        "frame_index": pa.array(rows["frame_index"], pa.int64()),
        "timestamp": pa.array(rows["timestamp"], pa.float32()),
    }
    groups = [
        ("joint_position_", rows["observation.state"].astype(np.float32), state_names),
        ("predicted_action_", predicted_TA, joints),
        ("gt_action_", recorded_TA, joints),
        ("abs_error_", np.abs(predicted_TA - recorded_TA), joints),
    ]
    for prefix, values_TN, names in groups:
        for name, values_T in zip(names, values_TN.T, strict=True):
            columns[prefix + name] = pa.array(np.ascontiguousarray(values_T), pa.float32())
    columns["inference_time_s"] = pa.array(latency_T_s, pa.float64(), from_pandas=True)
    about = header.model_dump(mode="json", exclude={"training"})
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps({**about, "columns": COLUMNS})})
