"""Errors equal those of a double loop over frames and steps, and baselines do what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage3_eval.metrics.baselines import baseline_chunks
from stage3_eval.metrics.errors import (
    Floats,
    add_errors,
    chunk_errors,
    compare_to_best,
    frame_errors,
    summarize,
)
from stage3_eval.metrics.summary import FIRST_STEP, ErrorStats
from tests.stage3_eval.summaries import chunk_errors as make_errors

# Three frames, two joints, chunks of two steps; the recording of joint b increases by one per frame.
RECORDED = np.array([[0.0, 10.0], [0.0, 11.0], [0.0, 12.0]])


def test_the_numbers_equal_those_computed_by_hand() -> None:
    chunk_TCA = np.stack([RECORDED + np.array([1, 0]), RECORDED + np.array([0, 3])], axis=1)
    # joint a: step 0 errs by 1 in three frames, step 1 by 0 in two. joint b: step 0 by 0, step 1 by |3 - 1| in two.
    summary = summarize(chunk_errors(chunk_TCA, RECORDED), ["a", "b"], [0, 1])
    assert summary.first_step.mae == 0.5
    assert summary.first_step.per_joint["a"] == ErrorStats(mae=1.0, rmse=1.0, max=1.0)
    horizon = summary.valid_horizon
    assert horizon.per_joint["a"].model_dump() == pytest.approx({"mae": 3 / 5, "rmse": (3 / 5) ** 0.5, "max": 1})
    assert horizon.per_joint["b"].model_dump() == pytest.approx({"mae": 4 / 5, "rmse": (8 / 5) ** 0.5, "max": 2})
    assert (horizon.mae, horizon.rmse, horizon.max) == pytest.approx((7 / 10, (11 / 10) ** 0.5, 2))
    assert summary.mae_by_step == [0.5, 1.0]


def test_steps_no_episode_is_long_enough_for_are_left_out() -> None:
    summary = summarize(chunk_errors(np.ones((2, 5, 1)), np.zeros((2, 1))), ["a"], [0])
    assert summary.mae_by_step == [1.0, 1.0]
    assert summary.valid_horizon.mae == 1.0


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_errors_equal_a_double_loop_over_frames_and_steps(frames: int, steps: int, joints: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunk_TCA, recorded_TA = rng.normal(size=(frames, steps, joints)), rng.normal(size=(frames, joints))
    pairs = [
        np.abs(chunk_TCA[t, k] - recorded_TA[t + k]) for t in range(frames) for k in range(steps) if t + k < frames
    ]
    names = [str(i) for i in range(joints)]
    horizon = summarize(chunk_errors(chunk_TCA, recorded_TA), names, range(joints)).valid_horizon
    assert horizon.mae == pytest.approx(np.mean(pairs))
    assert horizon.rmse == pytest.approx(np.mean(np.square(pairs)) ** 0.5)
    assert horizon.max == np.max(pairs)


def test_episodes_together_weigh_every_pair_alike() -> None:
    short, long = (
        chunk_errors(np.ones((1, 2, 1)), np.zeros((1, 1))),
        chunk_errors(np.zeros((3, 2, 1)), np.zeros((3, 1))),
    )
    both = summarize(add_errors([short, long]), ["a"], [0])
    assert both.first_step.mae == 1 / 4
    assert both.valid_horizon.mae == 1 / 6
    assert summarize(add_errors([short, short]), ["a"], [0]).valid_horizon.max == 1


def baselines(meaning: str | None, states: Floats | None = None, n_steps: int = 1) -> dict[str, Floats]:
    """Name -> chunks (T, n_steps, A)."""
    return dict(baseline_chunks(RECORDED, states, np.array([5.0, 6.0]), meaning, n_steps))


def first(chunk_TCA: Floats) -> list[list[float]]:
    rows: list[list[float]] = chunk_TCA[:, 0].tolist()
    return rows


def test_delta_baselines_do_not_move_repeat_the_last_action_or_take_the_mean() -> None:
    chunks = baselines("delta", RECORDED - 1)
    assert list(chunks) == ["zero_action", "repeat_last", "dataset_mean", "linear_extrapolation"]
    assert not chunks["zero_action"].any()
    assert first(chunks["repeat_last"]) == [[0, 0], [0, 10], [0, 11]]
    assert first(chunks["dataset_mean"]) == [[5, 6]] * 3


def test_repeating_the_last_delta_extrapolates_the_position() -> None:
    """The sum of the deltas continues in a straight line at the last recorded speed."""
    chunks = baselines("delta", n_steps=4)
    assert np.array_equal(chunks["linear_extrapolation"], chunks["repeat_last"])
    path = np.cumsum(chunks["linear_extrapolation"][2], axis=0)
    assert path.tolist() == [[0, 11], [0, 22], [0, 33], [0, 44]]


@pytest.mark.parametrize("meaning", ["next_position", "command"])
def test_position_baselines_hold_the_present_position_instead_of_driving_to_zero(meaning: str) -> None:
    chunks = baselines(meaning, RECORDED - 1)
    assert list(chunks) == ["hold_still", "repeat_last", "dataset_mean", "linear_extrapolation"]
    assert first(chunks["hold_still"]) == (RECORDED - 1).tolist()
    assert first(chunks["repeat_last"]) == [[-1, 9], [0, 10], [0, 11]]


def test_positions_are_extrapolated_at_the_speed_known_at_each_frame() -> None:
    chunks = baselines("next_position", RECORDED - 1, n_steps=3)["linear_extrapolation"]
    assert chunks[0].tolist() == [[-1, 9]] * 3  # no speed is known yet
    assert chunks[1].tolist() == [[1, 11], [2, 12], [3, 13]]  # from (-1, 9) to (0, 10) within a frame
    assert chunks[2].tolist() == [[0, 12], [0, 13], [0, 14]]


def test_a_joint_that_moves_evenly_is_extrapolated_without_error() -> None:
    ramp = np.arange(1.0, 11.0)[:, None]  # where each frame's action leads; the arm was one step behind
    chunks = dict(baseline_chunks(ramp, ramp - 1, np.zeros(1), "next_position", 3))
    errors = chunk_errors(chunks["linear_extrapolation"][1:], ramp, np.arange(1, 10))
    assert errors.largest_CA.max() == 0
    assert chunk_errors(chunks["repeat_last"], ramp).largest_CA.max() == 3


def test_without_one_position_per_action_nothing_is_held_and_no_motion_from_zero_is_made_up() -> None:
    chunks = baselines("command", n_steps=2)
    assert list(chunks) == ["repeat_last", "dataset_mean", "linear_extrapolation"]
    assert first(chunks["repeat_last"]) == [[5, 6], [0, 10], [0, 11]]
    extrapolated = chunks["linear_extrapolation"].tolist()
    assert extrapolated == [[[5, 6]] * 2, [[0, 10]] * 2, [[0, 12], [0, 13]]]


def test_without_a_meaning_there_are_baselines_that_need_none_and_nothing_is_added_to_a_position() -> None:
    chunks = baselines(None, RECORDED - 1)
    assert list(chunks) == ["repeat_last", "dataset_mean"]
    assert first(chunks["repeat_last"]) == [[5, 6], [0, 10], [0, 11]]  # nothing is known before the first: the mean
    assert first(chunks["dataset_mean"]) == [[5, 6]] * 3


def test_chunks_of_some_frames_are_compared_with_the_actions_of_their_frames() -> None:
    ramp_TA = np.arange(6.0)[:, None]
    start_S = np.array([0, 3])
    chunk_SCA = ramp_TA[start_S[:, None] + np.arange(3)]
    assert chunk_errors(chunk_SCA, ramp_TA, start_S).pairs_C.tolist() == [2, 2, 2]
    assert not chunk_errors(chunk_SCA, ramp_TA, start_S).largest_CA.any()
    chunk_SCA[1, 2] = 9  # at frame 5
    assert chunk_errors(chunk_SCA, ramp_TA, start_S).absolute_CA.tolist() == [[0], [0], [4]]
    assert frame_errors(chunk_SCA, ramp_TA, start_S).tolist() == [[0], [4 / 3]]


def test_a_frames_error_is_the_mean_over_its_steps_inside_the_episode() -> None:
    chunk_TCA = np.ones((3, 4, 1)) * np.array([1, 2, 4, 8])[:, None]
    errors = frame_errors(chunk_TCA, np.zeros((3, 1)), np.arange(3))
    assert errors.tolist() == [[7 / 3], [3 / 2], [1]]


def test_the_policy_is_measured_against_the_best_baseline() -> None:
    assert compare_to_best(make_errors(1), {"worse": make_errors(4), "best": make_errors(2)}, FIRST_STEP) == (
        "best",
        0.5,
    )


def test_a_baseline_without_error_leaves_nothing_to_measure_against() -> None:
    assert compare_to_best(make_errors(1), {"perfect": make_errors(0)}, FIRST_STEP) == ("perfect", None)
