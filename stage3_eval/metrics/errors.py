"""Errors between predicted chunks and recorded actions. Pure.

Letters in array names: T frames of an episode, S chunks (each starts at a frame), C chunk steps, A action dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stage3_eval.metrics.summary import ChunkErrors, ErrorStats, JointErrors, Scope

Floats = npt.NDArray[np.floating[Any]]
Frames = npt.NDArray[np.int64]


class Errors(NamedTuple):
    """Sums over the compared (frame, step) pairs, kept by step and joint so that episodes can be added up."""

    absolute_CA: Floats
    square_CA: Floats
    largest_CA: Floats
    pairs_C: npt.NDArray[np.int64]


def chunk_errors(predicted_SCA: Floats, recorded_TA: Floats, start_S: Frames | None = None) -> Errors:
    """Compare step k of the chunk predicted at frame t with the action recorded at t+k, while t+k is in the episode.

    `start_S` holds the frame of each chunk; without it there is one from every frame.
    """
    n_frames, n_steps, n_joints = len(recorded_TA), *predicted_SCA.shape[1:]
    start_S = np.arange(n_frames) if start_S is None else start_S
    absolute_CA, square_CA, largest_CA = np.zeros((3, n_steps, n_joints))
    pairs_C = np.zeros(n_steps, np.int64)
    for step in range(min(n_steps, n_frames)):
        inside_S = start_S + step < n_frames
        if not inside_S.any():
            break
        recorded_SA = recorded_TA[start_S[inside_S] + step]
        error_SA = np.abs(predicted_SCA[inside_S, step].astype(np.float64) - recorded_SA)
        absolute_CA[step] = error_SA.sum(axis=0)
        square_CA[step] = (error_SA**2).sum(axis=0)
        largest_CA[step] = error_SA.max(axis=0)
        pairs_C[step] = len(error_SA)
    return Errors(absolute_CA, square_CA, largest_CA, pairs_C)


def frame_errors(predicted_SCA: Floats, recorded_TA: Floats, start_S: Frames) -> Floats:
    """Return the mean error (S, A) of each chunk, per joint, over its steps inside the episode."""
    total_SA = np.zeros((len(start_S), recorded_TA.shape[1]))
    for step in range(predicted_SCA.shape[1]):
        inside_S = start_S + step < len(recorded_TA)
        total_SA[inside_S] += np.abs(predicted_SCA[inside_S, step] - recorded_TA[start_S[inside_S] + step])
    steps_S = np.minimum(predicted_SCA.shape[1], len(recorded_TA) - start_S)
    mean_SA: Floats = total_SA / steps_S[:, None]
    return mean_SA


def add_errors(episodes: Sequence[Errors]) -> Errors:
    """Return the errors over the pairs of all episodes."""
    absolute, square, largest, pairs = zip(*episodes, strict=True)
    return Errors(np.sum(absolute, axis=0), np.sum(square, axis=0), np.max(largest, axis=0), np.sum(pairs, axis=0))


def summarize(errors: Errors, joints: Sequence[str], overall: Sequence[int]) -> ChunkErrors:
    """Return mae, rmse and max, overall and per joint, of the first step and over the valid horizon.

    The overall values, `mae_by_step` too, are over the dimensions `overall`; it ends with the last step that any episode is
    long enough for.
    """
    compared = errors.pairs_C > 0
    by_step_C = errors.absolute_CA[compared].take(overall, axis=1).mean(axis=1) / errors.pairs_C[compared]
    first, horizon = (_summarize_steps(errors, joints, overall, steps) for steps in (1, len(compared)))
    return ChunkErrors(first_step=first, valid_horizon=horizon, mae_by_step=by_step_C.tolist())


def compare_to_best(
    policy: ChunkErrors, baselines: Mapping[str, ChunkErrors], scope: Scope
) -> tuple[str, float | None]:
    """Return the baseline with the lowest mae in `scope` and the policy's mae over its, None when it makes no error."""
    name = min(baselines, key=lambda name: baselines[name].scope(scope).mae)
    best = baselines[name].scope(scope).mae
    return name, policy.scope(scope).mae / best if best > 0 else None


def _summarize_steps(errors: Errors, joints: Sequence[str], overall: Sequence[int], n_steps: int) -> JointErrors:
    pairs = errors.pairs_C[:n_steps].sum()
    mae_A = errors.absolute_CA[:n_steps].sum(axis=0) / pairs
    mean_square_A = errors.square_CA[:n_steps].sum(axis=0) / pairs
    max_A = errors.largest_CA[:n_steps].max(axis=0)
    stats = zip(joints, mae_A.tolist(), np.sqrt(mean_square_A).tolist(), max_A.tolist(), strict=True)
    return JointErrors(
        mae=float(mae_A.take(overall).mean()),
        rmse=float(np.sqrt(mean_square_A.take(overall).mean())),
        max=float(max_A.take(overall).max()),
        per_joint={joint: ErrorStats(mae=mae, rmse=rmse, max=largest) for joint, mae, rmse, largest in stats},
    )
