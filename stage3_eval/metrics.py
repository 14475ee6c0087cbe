"""Predicted chunks and recorded actions in, errors of the policy and of trivial baselines out. Pure.

Letters in array names: T frames of an episode, C chunk steps, A action dimensions, S state dimensions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
FIRST_STEP, VALID_HORIZON = "first_step", "valid_horizon"


class Errors(NamedTuple):
    """Sums over the compared (frame, step) pairs, kept by step and joint so that episodes add up."""

    absolute_CA: Floats
    square_CA: Floats
    largest_CA: Floats
    pairs_C: npt.NDArray[np.int64]


def chunk_errors(predicted_TCA: Floats, recorded_TA: Floats) -> Errors:
    """Compare step k of the chunk predicted at frame t with the action recorded at t+k, while t+k is in the episode."""
    n_frames, n_steps, n_joints = predicted_TCA.shape
    absolute_CA, square_CA, largest_CA = np.zeros((3, n_steps, n_joints))
    pairs_C = np.zeros(n_steps, np.int64)
    for step in range(min(n_steps, n_frames)):
        error_TA = np.abs(predicted_TCA[: n_frames - step, step].astype(np.float64) - recorded_TA[step:])
        absolute_CA[step] = error_TA.sum(axis=0)
        square_CA[step] = (error_TA**2).sum(axis=0)
        largest_CA[step] = error_TA.max(axis=0)
        pairs_C[step] = len(error_TA)
    return Errors(absolute_CA, square_CA, largest_CA, pairs_C)


def together(episodes: Sequence[Errors]) -> Errors:
    """Return the errors of all episodes' pairs."""
    absolute, square, largest, pairs = zip(*episodes, strict=True)
    return Errors(np.sum(absolute, axis=0), np.sum(square, axis=0), np.max(largest, axis=0), np.sum(pairs, axis=0))


def baseline_actions(
    recorded_TA: Floats, state_TS: Floats, mean_A: Floats, action_meaning: str | None
) -> dict[str, Floats]:
    """Return what needs no policy: per baseline the action (T, A) that it repeats over the chunk predicted at t.

    `zero_action` does not move when actions are deltas; `hold_still` commands the present position, which is the same
    for next_position actions; when nobody says what actions mean, both compete. `repeat_last` repeats the action
    recorded at t-1 (at t=0: does not move), `dataset_mean` the mean of the dataset's actions.
    """
    zero_TA = np.zeros_like(recorded_TA)
    can_hold = action_meaning != "delta" and state_TS.shape == recorded_TA.shape
    still_TA = state_TS if can_hold and action_meaning == "next_position" else zero_TA
    actions = {"zero_action": zero_TA} if action_meaning != "next_position" else {}
    if can_hold:
        actions["hold_still"] = state_TS
    actions["repeat_last"] = np.concatenate([still_TA[:1], recorded_TA[:-1]])
    actions["dataset_mean"] = np.broadcast_to(mean_A, recorded_TA.shape)
    return actions


def as_chunks(action_TA: Floats, n_steps: int) -> Floats:
    """Return chunks (T, n_steps, A) that repeat each frame's action, without copying it."""
    return np.broadcast_to(action_TA[:, None], (len(action_TA), n_steps, action_TA.shape[1]))


def summarise(errors: Errors, joints: Sequence[str]) -> dict[str, Any]:
    """Return mae, rmse and max, overall and per joint, of the first step and over the valid horizon, as plain numbers.

    The overall values are over all joints. `mae_by_step` ends with the last step that any episode is long enough for.
    """
    compared = errors.pairs_C > 0
    by_step_C = errors.absolute_CA[compared].mean(axis=1) / errors.pairs_C[compared]
    return {
        FIRST_STEP: _summarise_steps(errors, joints, 1),
        VALID_HORIZON: _summarise_steps(errors, joints, len(compared)),
        "mae_by_step": by_step_C.tolist(),
    }


def compare_to_best(policy: dict[str, Any], baselines: dict[str, Any], scope: str) -> tuple[str, float | None]:
    """Return the baseline with the lowest mae in `scope` and policy mae / its mae, None when it makes no error."""
    name = min(baselines, key=lambda name: float(baselines[name][scope]["mae"]))
    best = baselines[name][scope]["mae"]
    return name, policy[scope]["mae"] / best if best > 0 else None


def _summarise_steps(errors: Errors, joints: Sequence[str], n_steps: int) -> dict[str, Any]:
    pairs = errors.pairs_C[:n_steps].sum()
    mae_A = errors.absolute_CA[:n_steps].sum(axis=0) / pairs
    mean_square_A = errors.square_CA[:n_steps].sum(axis=0) / pairs
    max_A = errors.largest_CA[:n_steps].max(axis=0)
    per_joint = zip(joints, mae_A.tolist(), np.sqrt(mean_square_A).tolist(), max_A.tolist(), strict=True)
    return {
        "mae": float(mae_A.mean()),
        "rmse": float(np.sqrt(mean_square_A.mean())),
        "max": float(max_A.max()),
        "per_joint": {joint: {"mae": mae, "rmse": rmse, "max": largest} for joint, mae, rmse, largest in per_joint},
    }
