"""Executed and recorded actions in; how far the arm would have drifted and how fast it would have moved out. Pure.

Letters in array names: T frames of an episode, S chunks, C chunk steps, A action dimensions, N compared windows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stage3_eval.metrics.baselines import DELTA
from stage3_eval.metrics.errors import Floats, Frames

AFTER_S = (0.5, 1.0)
FROM_MEASURED, FROM_COMMANDED = STARTS = ("from_measured", "from_commanded")


class Drift(NamedTuple):
    """Distances between where the predicted and where the recorded actions lead, summed over windows."""

    sum_A: Floats
    largest_A: Floats
    windows: npt.NDArray[np.int64]


class Steps(NamedTuple):
    """How far the joints are commanded to move within a frame; `over_A` counts the frames beyond the limit."""

    largest_A: Floats
    over_A: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]


def drifts(
    chunk_SCA: Floats, start_S: Frames, executed_TA: Floats, recorded_TA: Floats, action_meaning: str, fps: int
) -> dict[str, Drift]:
    """Return "<from>.<seconds>" -> the drift after so many seconds, for every window that lies inside the episode.

    `from_measured`: every chunk is followed from the position measured at its frame. `from_commanded`: the executed actions
    are added up and the measured position is never looked at again. Deltas add up; a position is where it is. Truth is
    where the recorded actions lead, so a recorded jump at +-pi does no harm. What a chunk is too short for is left out.
    """
    found = {}
    n_frames, n_steps = len(recorded_TA), chunk_SCA.shape[1]
    for after_s in AFTER_S:
        frames = max(1, round(after_s * fps))
        inside_S = start_S + frames <= n_frames
        if frames <= n_steps and inside_S.any():
            rows_NC = start_S[inside_S, None] + np.arange(frames)
            error_NCA = chunk_SCA[inside_S, :frames].astype(np.float64) - recorded_TA[rows_NC]
            end_NA = error_NCA.sum(axis=1) if action_meaning == DELTA else error_NCA[:, -1]
            found[f"{FROM_MEASURED}.{after_s}"] = _drift(end_NA)
        if frames <= n_frames:
            error_TA = executed_TA.astype(np.float64) - recorded_TA
            found[f"{FROM_COMMANDED}.{after_s}"] = _drift(_windows(error_TA, frames, action_meaning))
    return found


def steps(action_TA: Floats, position_TA: Floats | None, action_meaning: str, limit_A: Floats | None) -> Steps:
    """Return the largest step of each joint and how many exceed `limit_A`, both per frame.

    A delta is a step. A position is a step from the position commanded before it, the first from the measured one.
    """
    if action_meaning == DELTA:
        step_TA = np.abs(action_TA)
    else:
        first = action_TA[:1] if position_TA is None else position_TA[:1]
        step_TA = np.abs(np.diff(action_TA, axis=0, prepend=first))
    over_A = np.zeros(action_TA.shape[1], np.int64) if limit_A is None else (step_TA > limit_A).sum(axis=0)
    return Steps(step_TA.max(axis=0).astype(np.float64), over_A, np.array(len(action_TA)))


def add_drifts(one: Drift, other: Drift) -> Drift:
    """Return the drift over the windows of both."""
    return Drift(
        one.sum_A + other.sum_A, np.maximum(one.largest_A, other.largest_A), np.asarray(one.windows + other.windows)
    )


def add_steps(one: Steps, other: Steps) -> Steps:
    """Return the steps of both."""
    return Steps(
        np.maximum(one.largest_A, other.largest_A), one.over_A + other.over_A, np.asarray(one.frames + other.frames)
    )


def describe_drifts(of: Mapping[str, Drift], joints: list[str]) -> dict[str, Any]:
    """Return from -> seconds -> mean and max, overall and per joint; None where no chunk or episode was long enough."""
    return {start: {f"{s}s": _describe_drift(of.get(f"{start}.{s}"), joints) for s in AFTER_S} for start in STARTS}


def _drift(end_NA: Floats) -> Drift:
    away_NA = np.abs(end_NA)
    return Drift(away_NA.sum(axis=0), away_NA.max(axis=0), np.array(len(away_NA)))


def _windows(error_TA: Floats, frames: int, action_meaning: str) -> Floats:
    if action_meaning != DELTA:
        return error_TA[frames - 1 :]
    total_TA = np.concatenate([np.zeros_like(error_TA[:1]), np.cumsum(error_TA, axis=0)])
    ends: Floats = total_TA[frames:] - total_TA[:-frames]
    return ends


def _describe_drift(drift: Drift | None, joints: list[str]) -> dict[str, Any] | None:
    if drift is None:
        return None
    mean_A = drift.sum_A / drift.windows
    per_joint = zip(joints, mean_A.tolist(), drift.largest_A.tolist(), strict=True)
    return {
        "mean": float(mean_A.mean()),
        "max": float(drift.largest_A.max()),
        "per_joint": {joint: {"mean": mean, "max": largest} for joint, mean, largest in per_joint},
    }
