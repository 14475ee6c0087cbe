"""Summaries with chosen errors and nothing else, for tests of what is made from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stage3_eval.metrics.summary import VALID_HORIZON, ChunkErrors, EpisodeSummary, ErrorStats, JointErrors, Summary


def stats(value: float) -> ErrorStats:
    return ErrorStats(mae=value, rmse=value, max=value)


def chunk_errors(mae: float) -> ChunkErrors:
    errors = JointErrors(**stats(mae).model_dump(), per_joint={})
    return ChunkErrors(first_step=errors, valid_horizon=errors, mae_by_step=[mae])


def make_summary(values: Sequence[float], numbers: Sequence[int] = (), **changes: Any) -> Summary:
    """Return the summary of an evaluation with these errors by episode; `changes` replace its keys."""
    numbers = list(numbers or range(len(values)))
    by_episode = [
        EpisodeSummary.model_construct(episode_index=number, policy={VALID_HORIZON: stats(value)})
        for number, value in zip(numbers, values, strict=True)
    ]
    fields: dict[str, Any] = {
        "dataset_fingerprint": "d",
        "protocol": "open_loop",
        "action_meaning": "delta",
        "units": "rad",
        "joint_names": ["a"],
        "episodes": numbers,
        "policy": chunk_errors(float(np.mean(values))),
        "by_episode": by_episode,
        "checkpoint": "c",
        "training": {},
        "left_out": None,
        "held_out": None,
    }
    return Summary.model_construct(**(fields | changes))
