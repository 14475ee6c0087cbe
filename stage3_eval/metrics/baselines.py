"""Baselines: chunks made from the recording alone, which a policy has to be better than. Pure.

Letters in array names: T frames of an episode, C chunk steps, A action dimensions.
"""

from collections.abc import Iterator

import numpy as np

from stage3_eval.metrics.errors import Floats

DELTA = "delta"


def baseline_chunks(
    recorded_TA: Floats, position_TA: Floats | None, mean_A: Floats, action_meaning: str | None, n_steps: int
) -> Iterator[tuple[str, Floats]]:
    """Yield name and chunks (T, n_steps, A) of each baseline, one at a time.

    `position_TA` holds the measured position of the joint of each action, None where the dataset has none. At frame t a
    baseline knows only the recording before t: the last action is the one at t-1, at t=0 it is standing still. That is
    `zero_action` for deltas and `hold_still` for absolute positions (next_position, command). Where no position was measured,
    the last action at t=0 is the mean, and a speed is known from t=2 on. Without a meaning of actions nobody knows what
    standing still or the current speed is either: there are two baselines.
    """
    mean_TA = np.broadcast_to(mean_A, recorded_TA.shape)
    if action_meaning is None:
        yield "repeat_last", _repeat(np.concatenate([mean_TA[:1], recorded_TA[:-1]]), n_steps)
        yield "dataset_mean", _repeat(mean_TA, n_steps)
        return
    is_delta = action_meaning == DELTA
    still_TA = np.zeros_like(recorded_TA) if is_delta else mean_TA if position_TA is None else position_TA
    last_TA = np.concatenate([still_TA[:1], recorded_TA[:-1]])
    if is_delta:
        yield "zero_action", _repeat(still_TA, n_steps)
    elif position_TA is not None:
        yield "hold_still", _repeat(still_TA, n_steps)
    yield "repeat_last", _repeat(last_TA, n_steps)
    yield "dataset_mean", _repeat(mean_TA, n_steps)
    if is_delta:
        yield "linear_extrapolation", _repeat(last_TA, n_steps)
    else:
        speed_TA = np.diff(last_TA, axis=0, prepend=last_TA[:1])
        if position_TA is None:
            speed_TA[:2] = 0  # at t=1, the way from the mean to the first action
        step_C1 = np.arange(1, n_steps + 1)[:, None]
        yield "linear_extrapolation", last_TA[:, None] + step_C1 * speed_TA[:, None]


def _repeat(action_TA: Floats, n_steps: int) -> Floats:
    return np.broadcast_to(action_TA[:, None], (len(action_TA), n_steps, action_TA.shape[1]))
