import numpy as np
import pytest

from demo import scene
from demo.arm import tool_position
from demo.expert import (
    EPISODE_S,
    HOVER_M,
    MOVE_S,
    RECORDING_STREAM,
    ROLLOUT_STREAM,
    START_AWAY_M,
    START_Z_M,
    VISIBLE_PX,
    Task,
    motion,
    picture,
    sample_task,
    task_rng,
)


def tasks(count: int, stream: int = RECORDING_STREAM) -> list[Task]:
    return [sample_task(task_rng(0, stream, index)) for index in range(count)]


@pytest.fixture(scope="module")
def drawn() -> list[Task]:
    return tasks(200)


@pytest.fixture(scope="module")
def task(drawn: list[Task]) -> Task:
    return drawn[0]


def test_the_motion_starts_at_the_start_and_ends_above_the_target(task: Task) -> None:
    positions, _ = motion(task, [0.0, MOVE_S])
    np.testing.assert_array_equal(positions[0], task.start)
    np.testing.assert_allclose(tool_position(positions[1]), [*task.target_xy_m, HOVER_M], atol=1e-9)


def test_the_motion_starts_and_ends_at_rest_and_without_acceleration(task: Task) -> None:
    _, velocities = motion(task, [0.0, MOVE_S, EPISODE_S])
    np.testing.assert_allclose(velocities, 0.0, atol=1e-12)
    _, velocities = motion(task, [1e-4, MOVE_S - 1e-4])
    np.testing.assert_allclose(velocities / 1e-4, 0.0, atol=0.02)


def test_velocities_are_the_derivative_of_positions(task: Task) -> None:
    time_s = np.linspace(0.0, EPISODE_S, 4001)
    positions, velocities = motion(task, time_s)
    np.testing.assert_allclose(np.gradient(positions, time_s, axis=0), velocities, atol=2e-3)


def test_the_tool_never_dips_below_the_hover_height_by_more_than_a_centimeter(drawn: list[Task]) -> None:
    lowest_m = min(tool_position(motion(task, np.linspace(0, MOVE_S, 50))[0])[:, 2].min() for task in drawn)
    assert lowest_m > HOVER_M - 0.01


def test_the_same_seed_stream_and_index_give_the_same_task() -> None:
    first, second = (sample_task(task_rng(3, RECORDING_STREAM, 7)) for _ in range(2))
    np.testing.assert_array_equal(first.start, second.start)
    np.testing.assert_array_equal(first.target_xy_m, second.target_xy_m)


def test_rollouts_and_recordings_have_different_targets_even_with_the_same_seed() -> None:
    recorded = np.stack([task.target_xy_m for task in tasks(50)])
    held_out = np.stack([task.target_xy_m for task in tasks(50, ROLLOUT_STREAM)])
    assert np.linalg.norm(recorded[:, None] - held_out, axis=-1).min() > 1e-6


def test_targets_and_starts_spread_over_the_workspace_and_the_heights(drawn: list[Task]) -> None:
    targets = np.stack([task.target_xy_m for task in drawn])
    starts = tool_position(np.stack([task.start for task in drawn]))
    low, high = np.array([scene.WORKSPACE_X_M, scene.WORKSPACE_Y_M, START_Z_M]).T
    assert np.all((low[:2] <= targets) & (targets <= high[:2]))
    assert np.all(np.ptp(targets, axis=0) > 0.9 * (high - low)[:2])
    assert np.all(np.ptp(starts, axis=0) > 0.9 * (high - low))


def test_every_start_is_away_from_its_goal_and_lets_the_camera_see_the_target(drawn: list[Task]) -> None:
    for task in drawn:
        away_m = np.linalg.norm(tool_position(task.start) - [*task.target_xy_m, HOVER_M])
        assert away_m >= START_AWAY_M
        assert scene.target_pixels(picture(task, task.start)) >= VISIBLE_PX
