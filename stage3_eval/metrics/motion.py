"""How far the arm would have drifted from the recording, and how far each joint is moved within a frame. Pure.

Letters in array names: T frames of an episode, S chunks, C chunk steps, A action dimensions, N compared windows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stage3_eval.metrics.baselines import DELTA
from stage3_eval.metrics.errors import Floats, Frames
from stage3_eval.metrics.summary import Drifts, DriftStats, JointDrift

AFTER_S = (0.5, 1.0)
FROM_MEASURED, FROM_COMMANDED = STARTS = ("from_measured", "from_commanded")


class Drift(NamedTuple):
    """Distances between where the predicted and where the recorded actions lead, summed over windows."""

    sum_A: Floats
    largest_A: Floats
    windows: int


class Steps(NamedTuple):
    """How far the joints are commanded to move within a frame; `over_A` counts the frames beyond the limit."""

    largest_A: Floats
    over_A: npt.NDArray[np.int64]
    frames: int


def drifts(
    chunk_SCA: Floats, start_S: Frames, executed_TA: Floats, recorded_TA: Floats, action_meaning: str, fps: int
) -> dict[str, Drift]:
    """Return "<from>.<seconds>" -> the drift after so many seconds, for every window that lies inside the episode.

    `from_measured`: every chunk is followed from the position measured at its frame. `from_commanded`: the executed actions
    are added up and the measured position is never read again. Deltas add up, positions do not. The reference is where the
    recorded actions lead, so a recorded jump at +-pi does no harm. Times that a chunk is too short for are left out.
    """
    found: dict[str, Drift] = {}
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


def chunk_positions(position_A: Floats, chunk_CA: Floats, action_meaning: str) -> Floats:
    """Return the positions (C+1, A) of a robot that starts at `position_A` (A,) and executes the chunk (C, A)."""
    following_CA = position_A + np.cumsum(chunk_CA, axis=0) if action_meaning == DELTA else chunk_CA
    return np.concatenate([position_A[None], following_CA])


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
    return Steps(step_TA.max(axis=0).astype(np.float64), over_A, len(action_TA))


def add_drifts(episodes: Sequence[Drift]) -> Drift:
    """Return the drift over the windows of all episodes."""
    sums, largest, windows = zip(*episodes, strict=True)
    return Drift(np.sum(sums, axis=0), np.max(largest, axis=0), sum(windows))


def add_steps(episodes: Sequence[Steps]) -> Steps:
    """Return the steps of all episodes."""
    largest, over, frames = zip(*episodes, strict=True)
    return Steps(np.max(largest, axis=0), np.sum(over, axis=0), sum(frames))


def describe_drifts(drifts: Mapping[str, Drift], joints: Sequence[str], overall: Sequence[int]) -> Drifts:
    """Return start -> time -> mean and max, overall and per joint; None where no chunk or episode was long enough.

    The overall values are over the dimensions `overall`.
    """
    return {
        start: {
            f"{seconds}s": _describe_drift(drifts.get(f"{start}.{seconds}"), joints, overall) for seconds in AFTER_S
        }
        for start in STARTS
    }


def _drift(end_NA: Floats) -> Drift:
    away_NA = np.abs(end_NA)
    return Drift(away_NA.sum(axis=0), away_NA.max(axis=0), len(away_NA))


def _windows(error_TA: Floats, frames: int, action_meaning: str) -> Floats:
    if action_meaning != DELTA:
        return error_TA[frames - 1 :]
    total_TA = np.concatenate([np.zeros_like(error_TA[:1]), np.cumsum(error_TA, axis=0)])
    ends: Floats = total_TA[frames:] - total_TA[:-frames]
    return ends


def _describe_drift(drift: Drift | None, joints: Sequence[str], overall: Sequence[int]) -> JointDrift | None:
    if drift is None:
        return None
    mean_A = drift.sum_A / drift.windows
    stats = zip(joints, mean_A.tolist(), drift.largest_A.tolist(), strict=True)
    return JointDrift(
        mean=float(mean_A.take(overall).mean()),
        max=float(drift.largest_A.take(overall).max()),
        per_joint={joint: DriftStats(mean=mean, max=largest) for joint, mean, largest in stats},
    )
