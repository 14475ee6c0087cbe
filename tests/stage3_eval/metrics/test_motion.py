"""Drift and steps equal those computed by hand, for every meaning of actions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage3_eval.metrics.motion import Drift, add_drifts, chunk_positions, describe_drifts, drifts, steps

FPS = 4  # so that 0.5 s are 2 frames and 1 s is 4


def every_frame(n: int) -> np.ndarray:
    return np.arange(n)


def describe(found: dict[str, Drift]) -> dict[str, Any]:
    """Return "start.time" -> the numbers of the drift of one joint, a."""
    drift_by_start = describe_drifts(found, ["a"], [0])
    return {
        f"{start}.{time}": drift and drift.model_dump()
        for start, times in drift_by_start.items()
        for time, drift in times.items()
    }


def test_deltas_that_are_always_too_large_drift_further_and_further() -> None:
    recorded = np.full((10, 1), 0.5)
    chunks = np.full((10, 5, 1), 0.6)
    described = describe(drifts(chunks, every_frame(10), chunks[:, 0], recorded, "delta", FPS))
    for start in ("from_measured", "from_commanded"):
        assert described[f"{start}.0.5s"]["mean"] == pytest.approx(0.2)
        assert described[f"{start}.1.0s"]["mean"] == pytest.approx(0.4)
        assert described[f"{start}.1.0s"]["per_joint"]["a"] == pytest.approx({"mean": 0.4, "max": 0.4})


@pytest.mark.parametrize("meaning", ["next_position", "command"])
def test_positions_do_not_add_up(meaning: str) -> None:
    recorded = np.arange(10.0)[:, None]
    chunks = recorded[np.minimum(np.arange(10)[:, None] + np.arange(4), 9)] + 0.25
    described = describe(drifts(chunks, every_frame(10), chunks[:, 0], recorded, meaning, FPS))
    assert described["from_measured.1.0s"]["mean"] == 0.25
    assert described["from_commanded.1.0s"]["mean"] == 0.25


def test_times_longer_than_every_chunk_or_episode_have_no_drift() -> None:
    recorded = np.zeros((3, 1))
    described = describe(drifts(recorded[:, None], every_frame(3), recorded, recorded, "delta", FPS))
    assert described["from_measured.0.5s"] is None  # chunks of one step
    assert described["from_commanded.0.5s"] is not None
    assert described["from_commanded.1.0s"] is None  # three frames


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_drift_equals_following_both_paths_frame_by_frame(frames: int, n_steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    recorded, chunks = rng.normal(size=(frames, 2)), rng.normal(size=(frames, n_steps, 2))
    found = drifts(chunks, every_frame(frames), chunks[:, 0], recorded, "delta", FPS)
    measured, commanded = [], []
    for t in range(frames - 1):
        if t + 2 <= frames:
            commanded.append(abs(chunks[t : t + 2, 0].sum(axis=0) - recorded[t : t + 2].sum(axis=0)))
            if n_steps >= 2:
                measured.append(abs(chunks[t, :2].sum(axis=0) - recorded[t : t + 2].sum(axis=0)))
    assert found["from_commanded.0.5"].sum_A == pytest.approx(np.sum(commanded, axis=0))
    assert ("from_measured.0.5" in found) == bool(measured)
    if measured:
        assert found["from_measured.0.5"].largest_A == pytest.approx(np.max(measured, axis=0))


def test_drifts_of_episodes_weigh_every_window_alike() -> None:
    first = Drift(np.array([3.0]), np.array([2.0]), 2)
    second = Drift(np.array([1.0]), np.array([1.0]), 2)
    described = describe({"from_measured.0.5": add_drifts([first, second])})
    assert described["from_measured.0.5s"] == {"mean": 1.0, "max": 2.0, "per_joint": {"a": {"mean": 1.0, "max": 2.0}}}


def test_a_delta_is_a_step_and_a_position_one_from_the_position_before() -> None:
    actions = np.array([[1.0], [-3.0], [2.0]])
    limit = np.array([2.5])
    of_deltas = steps(actions, None, "delta", limit)
    assert (of_deltas.largest_A.tolist(), of_deltas.over_A.tolist(), of_deltas.frames) == ([3.0], [1], 3)
    measured = np.array([[-2.0], [0.0], [0.0]])
    of_positions = steps(actions, measured, "next_position", limit)  # 3 from the measured -2, then 4, then 5
    assert (of_positions.largest_A.tolist(), of_positions.over_A.tolist()) == ([5.0], [3])
    assert steps(actions, None, "command", limit).over_A.tolist() == [2]  # nothing is known before the first
    assert steps(actions, None, "delta", None).over_A.tolist() == [0]


def test_deltas_add_up_from_the_present_position_and_positions_are_where_the_robot_goes() -> None:
    start, chunk = np.array([1.0]), np.array([[0.5], [0.25]])
    assert chunk_positions(start, chunk, "delta").tolist() == [[1.0], [1.5], [1.75]]
    assert chunk_positions(start, chunk, "next_position").tolist() == [[1.0], [0.5], [0.25]]
